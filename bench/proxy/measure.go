package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/lab"
)

// bench is one size's measurements of one contender.
type bench struct {
	net     *network
	cluster *cluster
	gate    *gate
	scratch string
	limit   time.Duration // for whatever a proxy may take very long for
	random  *rand.Rand
}

var errLimit = errors.New("not within the time limit")

// vips are up to a thousand Services, spread over all, in no order.
func (b *bench) vips() []netip.AddrPort {
	number := min(b.cluster.services, 1000)
	all := make([]netip.AddrPort, number)
	for i, k := range b.random.Perm(number) {
		all[i] = vip(probes + k*b.cluster.services/number)
	}
	return all
}

// awaitAll waits until every address has answered once, and returns when the
// last one had. Then it asks all of them again.
func (b *bench) awaitAll(r *running, all []netip.AddrPort) (at time.Time, err error) {
	deadline := time.Now().Add(b.limit)
	err = b.net.Node.Do(func() error {
		for _, a := range all {
			for {
				if answers(a, 5*time.Millisecond) {
					break
				}
				if err := r.over(); err != nil {
					return err
				}
				if time.Now().After(deadline) {
					return errLimit
				}
				time.Sleep(time.Millisecond)
			}
		}
		at = time.Now()
		for _, a := range all {
			if !answers(a, time.Second) {
				return fmt.Errorf("%s answered once and then no more", a)
			}
		}
		return nil
	})
	return at, err
}

// answers says whether a connection is made in that time.
func answers(to netip.AddrPort, patience time.Duration) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, abortive) != nil {
		return false
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return false
	}
	if await(fd, unix.POLLOUT, time.Now().Add(patience)) != nil {
		return false
	}
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	return err == nil && errno == 0
}

// update is one timed change of an endpoint.
type update struct {
	put   time.Duration // the PUT alone
	reach time.Duration // from just before it to a connection that reaches the new endpoint
}

const pollPause = 300 * time.Microsecond

// update replaces the only endpoint of a probe Service.
func (b *bench) update(ctx context.Context, probe int) (update, error) {
	with := b.cluster.next()
	var u update
	g, ctx := errgroup.WithContext(ctx)
	begin := time.Now()
	g.Go(func() (err error) {
		u.put, err = b.cluster.replace(ctx, probe, 0, with)
		return err
	})
	g.Go(func() (err error) {
		u.reach, err = b.reach(ctx, b.net.Node, probe, with, begin)
		return err
	})
	return u, g.Wait()
}

// reach asks a probe Service until the backend answers.
func (b *bench) reach(ctx context.Context, from *lab.Namespace, probe int, who netip.Addr, begin time.Time) (took time.Duration, err error) {
	err = from.Do(func() error {
		for {
			if a, err := ask(vip(probe), 250*time.Millisecond); err == nil && a == who {
				took = time.Since(begin)
				return nil
			}
			if time.Since(begin) > b.limit {
				return errLimit
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			time.Sleep(pollPause)
		}
	})
	return took, err
}

// updates times so many changes, a pause apart.
func (b *bench) updates(ctx context.Context, r *running, number int, pause time.Duration) ([]update, error) {
	var all []update
	for k := range number {
		// Not always at the same moment after the one before.
		time.Sleep(pause + time.Duration(b.random.Int64N(int64(pause/4))))
		if err := b.gate.wait(); err != nil {
			return all, err
		}
		u, err := b.update(ctx, k%probes)
		if err != nil {
			return all, errors.Join(err, r.over())
		}
		all = append(all, u)
	}
	return all, nil
}

const churnRate = 10 // other changes per second

// churn changes other Services until ctx ends, and returns how many changes were
// made.
func (b *bench) churn(ctx context.Context) (changes int, err error) {
	every := time.NewTicker(time.Second / churnRate)
	defer every.Stop()
	random := rand.New(rand.NewPCG(1, 2))
	addresses := plus(netip.MustParseAddr("10.168.0.0"), 0)
	for {
		select {
		case <-every.C:
		case <-ctx.Done():
			return changes, nil
		}
		addresses = addresses.Next()
		if _, err := b.cluster.replace(ctx, probes+random.IntN(b.cluster.services), 0, addresses); err != nil {
			if ctx.Err() != nil {
				return changes, nil
			}
			return changes, fmt.Errorf("churn: %w", err)
		}
		changes++
	}
}

// connects is what connections cost, in microseconds: to a backend itself and
// through a cluster IP, in turn.
type connects struct {
	direct, through         []float64 // connect, established, closed by RST
	directOpen, throughOpen []float64 // connect alone
}

const connectBatch = 100

// connects makes so many pairs of connections from a namespace, to Services all
// over.
func (b *bench) connects(from *lab.Namespace, pairs int) (connects, error) {
	var c connects
	for done := 0; done < pairs; done += connectBatch {
		if err := b.gate.wait(); err != nil {
			return c, err
		}
		i := probes + b.random.IntN(b.cluster.services)
		through := sockaddr(vip(i))
		// An endpoint that churn leaves alone.
		direct := sockaddr(netip.AddrPortFrom(backend(i, 1+b.random.IntN(endpoints-1)), discardPort))
		err := from.Do(func() error {
			for k := range connectBatch + 2 {
				a, aBoth, err := knock(direct)
				if err != nil && !errors.Is(err, unix.EINTR) {
					return fmt.Errorf("connect to a backend: %w", err)
				}
				v, vBoth, vErr := knock(through)
				if vErr != nil && !errors.Is(vErr, unix.EINTR) {
					return fmt.Errorf("connect to %s: %w", vip(i), vErr)
				}
				// At first caches are cold; and Go's own signals interrupt threads.
				if k < 2 || err != nil || vErr != nil {
					continue
				}
				c.direct, c.through = append(c.direct, us(aBoth)), append(c.through, us(vBoth))
				c.directOpen, c.throughOpen = append(c.directOpen, us(a)), append(c.throughOpen, us(v))
			}
			return nil
		})
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
