package proxy

import (
	"net/netip"
	"time"

	"viaduct.dev/viaduct/internal/servicetable"
)

// apiAwayAfter is how long the API is waited for before those who ask about the
// node are answered from what was known last.
const apiAwayAfter = 3 * time.Second

// boot programs the last table that is known, where the kernel holds none: a
// machine that comes up while the API is away serves its Services at once. What
// has changed since is corrected when the API is back.
func (k *plane) boot() {
	if k.p.state == nil || len(k.prior.Frontends) > 0 {
		return
	}
	saved, err := k.p.state.Load()
	if err != nil {
		k.p.cfg.Log.Warn("the last table cannot be read; the API's is waited for", "err", err)
		return
	}
	if len(saved.Frontends) == 0 {
		return
	}
	err = k.program(&saved, true)
	k.settle(err, nil)
	k.relay(&saved, true)
	k.tell(&saved)
	k.booted, k.prior = true, priorOf(&saved)
	k.p.cfg.Log.Info("the last table that was known is programmed", "frontends", len(saved.Frontends), "err", err)
}

// away tells those who ask about this node what was known last: the kernel
// serves by it while the API is away.
func (k *plane) away() {
	if k.p.state == nil || k.booted {
		return
	}
	if saved, err := k.p.state.Load(); err == nil {
		k.tell(&servicetable.Diff{Health: saved.Health})
	}
}

// priorOf is what the kernel holds after a change from nothing.
func priorOf(d *servicetable.Diff) servicetable.Prior {
	prior := servicetable.Prior{
		Frontends: make(map[servicetable.Frontend]servicetable.PriorTarget, len(d.Frontends)),
		Slots:     map[servicetable.PoolID][]netip.AddrPort{},
	}
	for _, c := range d.Frontends {
		prior.Frontends[c.Frontend] = servicetable.PriorTarget{Internal: c.New.Internal.Pool, External: c.New.External.Pool}
	}
	for _, c := range d.Slots {
		list := prior.Slots[c.Pool]
		for len(list) <= int(c.Slot) {
			list = append(list, netip.AddrPort{})
		}
		list[c.Slot] = c.New
		prior.Slots[c.Pool] = list
	}
	return prior
}
