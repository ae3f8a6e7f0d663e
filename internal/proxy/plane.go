package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"viaduct.dev/viaduct/internal/proxy/conntrack"
	"viaduct.dev/viaduct/internal/proxy/healthcheck"
	"viaduct.dev/viaduct/internal/proxy/metrics"
	"viaduct.dev/viaduct/internal/proxy/nftables"
	"viaduct.dev/viaduct/internal/servicetable"
)

// plane is what a proxy programs: the kernel, and those who answer about it. It
// belongs to Run's goroutine, whose thread is in the right namespace.
type plane struct {
	p      *Proxy
	sink   *nftables.Sink
	ct     *conntrack.Conn
	health *healthcheck.Ports
	prior  servicetable.Prior
	node   nftables.Node
	made   bool // the rules are there
	booted bool // with what was known last, instead of the API's

	refused string        // what the kernel refused last, as was logged; empty: nothing
	pause   time.Duration // before the next try
	timer   <-chan time.Time
}

// firstRetry and longestRetry are between tries to program what was refused.
const (
	firstRetry   = time.Second
	longestRetry = time.Minute
)

// openPlane takes over what the kernel holds.
func (p *Proxy) openPlane() (*plane, error) {
	k := &plane{p: p, pause: firstRetry}
	p.mu.Lock()
	k.node, p.selfIs = p.self.node(&p.cfg), true
	p.mu.Unlock()
	var err error
	if k.sink, k.prior, err = nftables.Open(nftables.Config{
		Local: p.cfg.localTraffic(), MasqueradeAll: p.cfg.MasqueradeAll, RandomFully: true, Log: p.cfg.Log,
	}, k.node); err != nil {
		return nil, err
	}
	if k.ct, err = conntrack.Open(); err != nil {
		k.sink.Close()
		return nil, err
	}
	k.health = healthcheck.NewPorts(p.cfg.Health.Healthy, p.cfg.Log)
	k.health.SetAddresses(k.node.NodePortAddresses)
	if p.relay != nil {
		p.relay.SetAddresses(k.node.NodePortAddresses)
	}
	k.boot()
	return k, nil
}

// close leaves the rules in the kernel.
func (k *plane) close() {
	k.health.Close()
	k.ct.Close()
	k.sink.Close()
}

// begin programs the whole table, onto what the kernel holds from before. Until
// now a diff would have removed what is still wanted.
func (k *plane) begin() {
	if k.booted {
		if err := k.sink.Reload(); err != nil {
			k.p.cfg.Log.Error("the kernel cannot be read", "plane", "nftables", "err", err)
		}
	}
	k.p.mu.Lock()
	k.p.table.Adopt(k.prior)
	k.prior = servicetable.Prior{}
	all := k.p.table.Snapshot()
	k.p.mu.Unlock()
	// What conntrack holds is right: the kernel went on without us.
	k.keep(&all, true)
	k.settle(k.program(&all, true), &all.Revision)
	k.relay(&all, true)
	k.tell(&all)
	k.p.poke() // what had to wait for the rules
}

// lost restores what somebody else has taken away.
func (k *plane) lost() {
	k.p.cfg.Log.Warn("somebody has changed the rules; they are restored", "plane", "nftables")
	k.p.note(note{reason: "ServiceRulesLost", text: "another program changed or deleted the nftables rules of Services; they are restored"})
	k.p.cfg.Metrics.Restored()
	_ = k.restore() // settle has told
}

// step programs what has changed since the last one. Until the table is whole,
// that is what concerns the node itself.
func (k *plane) step(whole bool) {
	p := k.p
	var diff servicetable.Diff
	p.mu.Lock()
	if whole {
		// A Diff is good until the next Flush, which is ours: others may go on
		// changing the table while it is programmed.
		diff = p.table.Flush()
	}
	local, localIs := p.local, p.localIs || !k.made
	p.localIs = p.localIs || k.made
	node := k.node
	if !p.selfIs {
		node = p.self.node(&p.cfg)
	}
	p.selfIs = true
	p.mu.Unlock()

	var errs []error
	if !sameNode(node, k.node) {
		errs = append(errs, k.setNode(node))
	}
	if !diff.Empty() {
		errs = append(errs, k.program(&diff, false))
		k.free(&diff)
	}
	if whole {
		k.keep(&diff, false)
		k.relay(&diff, false)
		k.tell(&diff)
	}
	if !localIs {
		if err := k.sink.SetLocal(local); err != nil {
			errs = append(errs, fmt.Errorf("exempt the node's own servers: %w", err))
		}
	}
	k.settle(errors.Join(errs...), &diff.Revision)
}

// keep has the last table on disk follow.
func (k *plane) keep(diff *servicetable.Diff, whole bool) {
	switch {
	case k.p.state == nil:
	case whole:
		k.p.state.Replace(*diff)
	case !diff.Empty() || len(diff.Health) > 0:
		k.p.state.Add(*diff)
	}
}

// relay has node ports on loopback follow.
func (k *plane) relay(diff *servicetable.Diff, whole bool) {
	switch {
	case k.p.relay == nil:
	case whole:
		k.p.relay.Replace(diff)
	default:
		k.p.relay.Follow(diff)
	}
}

// program writes a diff, a Snapshot if it is whole, into the kernel.
func (k *plane) program(diff *servicetable.Diff, whole bool) error {
	start := time.Now()
	k.p.cfg.Health.Programming()
	k.p.cfg.Metrics.Programming()
	err := k.sink.Apply(diff)
	k.made = true
	if err != nil {
		k.p.cfg.Metrics.Refused()
		return err
	}
	k.p.cfg.Metrics.Programmed(metrics.Sync{Diff: diff, Whole: whole, Took: time.Since(start)})
	k.p.cfg.Log.Debug("programmed", "frontends", len(diff.Frontends), "slots", len(diff.Slots), "took", time.Since(start))
	return nil
}

// settle moves the watermark when everything is in the kernel, and else sees to
// it that the rest is tried again. What is refused is told once.
func (k *plane) settle(err error, revision *servicetable.Revision) {
	switch {
	case err != nil:
		if k.refused == "" {
			k.p.cfg.Log.Error("part of a change was refused; everything else goes on, and it is tried again", "plane", "nftables", "err", err)
		}
		k.refused = err.Error()
		if k.timer == nil {
			k.timer = time.After(k.pause)
			k.pause = min(2*k.pause, longestRetry)
		}
	case k.refused == "":
		if revision != nil && *revision != (servicetable.Revision{}) {
			k.p.revision.Store(revision)
			k.p.cfg.Metrics.Holds(*revision)
		}
		k.p.cfg.Health.Updated()
	}
}

// again fires when something is to be tried again.
func (k *plane) again() <-chan time.Time {
	if k.timer == nil && k.health.Missing() {
		k.timer = time.After(k.pause)
	}
	return k.timer
}

// retry compares the kernel with the whole table and writes what is different.
func (k *plane) retry() {
	k.timer = nil
	k.health.Retry()
	if k.refused == "" {
		return
	}
	if err := k.restore(); err == nil {
		k.p.cfg.Log.Info("what was refused is programmed", "plane", "nftables")
	}
}

// restore reads the kernel back and makes it right.
func (k *plane) restore() error {
	err := k.sink.Reload()
	var all servicetable.Diff
	if err == nil {
		k.p.mu.Lock()
		k.p.localIs = false // what is exempted is settled anew too
		k.p.poke()
		all = k.p.table.Snapshot()
		k.p.mu.Unlock()
		k.keep(&all, true)
		err = k.program(&all, true)
		k.relay(&all, true)
		k.tell(&all)
	}
	if err == nil {
		k.refused, k.pause = "", firstRetry
	}
	k.settle(err, &all.Revision)
	return err
}

// setNode has the rules know the node as it is now.
func (k *plane) setNode(n nftables.Node) error {
	k.p.cfg.Log.Info("the node has changed", "nodePortAddresses", n.NodePortAddresses, "localCIDRs", n.LocalCIDRs, "serviceCIDRs", n.ServiceCIDRs)
	k.node = n
	k.health.SetAddresses(n.NodePortAddresses)
	if k.p.relay != nil {
		k.p.relay.SetAddresses(n.NodePortAddresses)
	}
	if err := k.sink.SetNode(n); err != nil {
		return fmt.Errorf("tell the rules of the node: %w", err)
	}
	return nil
}

// tell tells the world, not the kernel, of a diff.
func (k *plane) tell(d *servicetable.Diff) {
	for _, c := range d.Health {
		if err := k.health.Set(c); err != nil {
			k.p.warn(c.Service, "FailedToStartServiceHealthcheck", fmt.Sprintf("node %s: %v", k.p.cfg.NodeName, err))
		}
	}
	for _, c := range d.Conflicts {
		k.p.warn(c.Service, "AddressConflict", fmt.Sprintf("%s is held by the older Service %s: this one is not reached there", c.Frontend, c.With))
	}
}

// free frees the flows and clients that are bound to what is gone.
func (k *plane) free(d *servicetable.Diff) {
	log := k.p.cfg.Log
	var flows []conntrack.Flow
	for _, g := range d.Gone {
		if g.Frontend.Protocol == servicetable.UDP && !g.Serving {
			flows = append(flows, conntrack.Flow{Frontend: netip.AddrPortFrom(g.Frontend.Addr, g.Frontend.Port), Backend: g.Backend})
		}
	}
	// Flows that began while nobody served them lead nowhere.
	begins := func(old, now servicetable.View) bool {
		return old.Verdict != servicetable.Serve && now.Verdict == servicetable.Serve
	}
	for _, c := range d.Frontends {
		if c.Frontend.Protocol == servicetable.UDP && (begins(c.Old.Internal, c.New.Internal) || begins(c.Old.External, c.New.External)) {
			flows = append(flows, conntrack.Flow{Frontend: netip.AddrPortFrom(c.Frontend.Addr, c.Frontend.Port)})
		}
	}
	if len(flows) > 0 {
		if err := k.ct.Free(flows); err != nil {
			log.Warn("UDP flows were not freed", "flows", len(flows), "err", err)
			k.p.cfg.Metrics.NotCleaned()
		}
	}
	if err := k.sink.Forget(d.Gone); err != nil {
		log.Warn("clients stay bound to an endpoint that is gone", "err", err)
		k.p.cfg.Metrics.NotCleaned()
	}
}
