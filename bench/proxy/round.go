package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// figures are what was measured of one contender at one size, each with the
// samples of all rounds.
type figures struct {
	start    []float64 // s, from the start with an empty kernel to every VIP answering
	failed   string    // what was not finished, and why
	spaced   []update
	churned  []update
	cpu      []float64 // ms per change, spaced
	cpuChurn []float64 // ms per change, under churn
	memory   []memory
	ready    []float64 // s, from a restart to /healthz
	restart  []float64 // s, from a restart to a change that came while it was away
	writes   []float64 // transactions that a restart without a change made
	pod      []connects
	node     []connects
}

// plan says how much is measured.
type plan struct {
	samples int           // updates, each spaced and under churn
	pairs   int           // connections, from each place
	settle  time.Duration // between the start and what follows
	only    string        // "connect": nothing else
}

// round measures one contender once, from an empty kernel on.
func (b *bench) round(ctx context.Context, c contender, p plan, f *figures) (err error) {
	if err := b.net.Fresh(); err != nil {
		return err
	}
	if err := b.cluster.reset(ctx); err != nil {
		return err
	}
	if err := b.gate.wait(); err != nil {
		return err
	}
	all := b.vips()
	r, begin, err := c.begin(b.net, b.cluster.kubeconfig, b.scratch)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	at, err := b.awaitAll(r, all)
	if errors.Is(err, errLimit) {
		f.failed = fmt.Sprintf("start: not every VIP answered within %v", b.limit)
		return nil
	}
	if err != nil {
		return err
	}
	f.start = append(f.start, at.Sub(begin).Seconds())
	time.Sleep(p.settle)
	pod, err := b.connects(b.net.Pod, p.pairs)
	if err != nil {
		return err
	}
	node, err := b.connects(b.net.Node, p.pairs)
	if err != nil {
		return err
	}
	f.pod, f.node = append(f.pod, pod), append(f.node, node)
	if p.only == "connect" {
		return nil
	}
	if err := b.roundOfUpdates(ctx, r, c, p, f); err != nil {
		return err
	}
	m, err := r.memory()
	if err != nil {
		return err
	}
	f.memory = append(f.memory, m)
	if r, err = b.restarts(ctx, r, c, f); err != nil {
		if errors.Is(err, errLimit) {
			f.failed = fmt.Sprintf("restart: not within %v", b.limit)
			return nil
		}
		return err
	}
	return nil
}

func (b *bench) roundOfUpdates(ctx context.Context, r *running, c contender, p plan, f *figures) error {
	before, err := r.cpu()
	if err != nil {
		return err
	}
	spaced, err := b.updates(ctx, r, p.samples, c.pause)
	if err != nil {
		return fmt.Errorf("spaced: %w", err)
	}
	between, err := r.cpu()
	if err != nil {
		return err
	}
	f.spaced = append(f.spaced, spaced...)
	f.cpu = append(f.cpu, ms(between-before)/float64(len(spaced)))

	churning, stop := context.WithCancel(ctx)
	defer stop()
	type result struct {
		changes int
		err     error
	}
	others := make(chan result, 1)
	go func() {
		changes, err := b.churn(churning)
		others <- result{changes, err}
	}()
	churned, err := b.updates(ctx, r, p.samples, c.pause)
	stop()
	o := <-others
	if err := errors.Join(err, o.err); err != nil {
		return fmt.Errorf("under churn: %w", err)
	}
	after, err := r.cpu()
	if err != nil {
		return err
	}
	f.churned = append(f.churned, churned...)
	f.cpuChurn = append(f.cpuChurn, ms(after-between)/float64(len(churned)+o.changes))
	return nil
}

// restarts ends the proxy and starts it again onto what it has left in the
// kernel: once with nothing changed, and once with one endpoint changed in
// between. It returns the last process.
func (b *bench) restarts(ctx context.Context, r *running, c contender, f *figures) (*running, error) {
	if err := r.stop(); err != nil {
		return r, err
	}
	before, err := generation(b.net.Node)
	if err != nil {
		return r, err
	}
	if err := b.gate.wait(); err != nil {
		return r, err
	}
	r, begin, err := c.start(b.net, b.cluster.kubeconfig, b.scratch)
	if err != nil {
		return r, err
	}
	at, err := b.awaitHealthy(ctx, r)
	if err != nil {
		return r, err
	}
	f.ready = append(f.ready, at.Sub(begin).Seconds())
	// What comes late counts too.
	time.Sleep(time.Second)
	after, err := generation(b.net.Node)
	if err != nil {
		return r, err
	}
	f.writes = append(f.writes, float64(after-before))

	if err := r.stop(); err != nil {
		return r, err
	}
	with := b.cluster.next()
	if _, err := b.cluster.replace(ctx, 0, 0, with); err != nil {
		return r, err
	}
	if err := b.gate.wait(); err != nil {
		return r, err
	}
	if r, begin, err = c.start(b.net, b.cluster.kubeconfig, b.scratch); err != nil {
		return r, err
	}
	took, err := b.reach(ctx, b.net.Node, 0, with, begin)
	if err != nil {
		return r, errors.Join(err, r.over())
	}
	f.restart = append(f.restart, took.Seconds())
	return r, nil
}
