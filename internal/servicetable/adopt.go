package servicetable

import "net/netip"

// Prior is what a data plane holds from an earlier process.
type Prior struct {
	// Frontends lead to the pools that they led to.
	Frontends map[Frontend]PriorTarget
	// Slots are the backends of a pool by slot; the zero AddrPort is a hole.
	Slots map[PoolID][]netip.AddrPort
}

// PriorTarget is where a frontend led.
type PriorTarget struct{ Internal, External PoolID }

// Adopt numbers pools and slots as a data plane already does, so that writing
// the table to it changes only what is different. It is for a table that was
// filled and not told to anybody yet; Snapshot follows.
func (t *Table) Adopt(prior Prior) {
	ids := make(map[*pool]PoolID, len(t.pools))
	taken := make(map[uint32]bool, len(t.pools))
	take := func(p *pool, id PoolID) {
		if p == nil || id.number() == 0 || ids[p] != 0 || taken[id.number()] || id.AffinityClass() != p.id.AffinityClass() {
			return
		}
		ids[p] = id
		taken[id.number()] = true
	}
	for f, e := range t.frontends {
		was, ok := prior.Frontends[f]
		if target := e.target(); ok && e.claims != nil {
			take(t.pool(target.Internal.Pool), was.Internal)
			take(t.pool(target.External.Pool), was.External)
		}
	}
	old := t.pools
	t.pools, t.free = make([]*pool, 1, len(old)), nil
	var fresh uint32
	for _, p := range old {
		if p == nil {
			continue
		}
		id, ok := ids[p]
		if !ok {
			for fresh++; taken[fresh]; fresh++ {
			}
			id = poolID(fresh, p.id.AffinityClass())
			taken[fresh] = true
		}
		p.id = id
		p.arrange(prior.Slots[id])
		for int(id.number()) >= len(t.pools) {
			t.pools = append(t.pools, nil)
		}
		t.pools[id.number()] = p
	}
	for n := len(t.pools) - 1; n > 0; n-- {
		if t.pools[n] == nil {
			t.free = append(t.free, uint32(n))
		}
	}
}

func (t *Table) pool(id PoolID) *pool {
	if int(id.number()) < len(t.pools) {
		return t.pools[id.number()]
	}
	return nil
}

// arrange keeps backends in the slots that they had.
func (p *pool) arrange(was []netip.AddrPort) {
	next := make([]netip.AddrPort, len(p.slots))
	kept := make(map[netip.AddrPort]bool, len(p.slots))
	for i := range next {
		if i < len(was) && !kept[was[i]] && p.group.members[was[i]].slot[p.scope] != 0 {
			next[i] = was[i]
			kept[was[i]] = true
		}
	}
	hole := 0
	for _, ap := range p.slots {
		if kept[ap] {
			continue
		}
		for next[hole].IsValid() {
			hole++
		}
		next[hole] = ap
	}
	p.slots = next
	for i, ap := range next {
		m := p.group.members[ap]
		m.slot[p.scope] = uint32(i + 1)
		p.group.members[ap] = m
	}
}

// Snapshot is the whole table as a change from nothing. What happened until now
// is told by it, so the next Flush tells only what happens after it.
func (t *Table) Snapshot() Diff {
	d := Diff{Revision: t.revision}
	for f, e := range t.frontends {
		e.told = e.target()
		if e.claims == nil {
			delete(t.frontends, f)
			continue
		}
		e.group = e.claims.service.groups[e.claims.wish.key]
		d.Frontends = append(d.Frontends, FrontendChange{Frontend: f, New: e.told})
		e.sources = nil
		d.tellSources(f, e)
		d.tellConflicts(f, e)
	}
	for _, s := range t.services {
		if s.health = s.healthNow(); s.health.Port != 0 {
			d.Health = append(d.Health, s.health)
		}
	}
	for _, p := range t.pools {
		if p == nil {
			continue
		}
		for i, ap := range p.slots {
			d.Slots = append(d.Slots, SlotChange{Pool: p.id, Slot: uint32(i), New: ap})
		}
	}
	for a := range t.local {
		d.Local = append(d.Local, LocalChange{a, true})
	}
	t.clean()
	d.sort()
	return d
}
