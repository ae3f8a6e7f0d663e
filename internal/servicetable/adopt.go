package servicetable

import (
	"net/netip"
	"slices"
)

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
		if p == nil || id.number() == 0 || ids[p] != 0 || taken[id.number()] || id != poolID(id.number(), p.id.AffinityClass()) || int(id.number()) > t.maxPools {
			return
		}
		ids[p] = id
		taken[id.number()] = true
	}
	old := t.pools
	for _, p := range old {
		if p == nil {
			continue
		}
		for i := range p.group.service.claims {
			c := &p.group.service.claims[i]
			if was, ok := prior.Frontends[c.entry.front.frontend()]; ok && c.group == p.group && c.entry.claims == c {
				now := c.entry.now()
				if now.internal.Pool == p.id {
					take(p, was.Internal)
				}
				if now.external.Pool == p.id {
					take(p, was.External)
				}
			}
		}
	}
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
	t.adopted = t.lostSince(prior)
}

// arrange keeps backends in the slots that they had.
func (p *pool) arrange(was []netip.AddrPort) {
	if slices.EqualFunc(p.slots, was, func(b backend, ap netip.AddrPort) bool { return b == backendOf(ap) }) {
		return
	}
	next := make([]backend, len(p.slots))
	kept := make(map[backend]bool, len(p.slots))
	for i := range next {
		if i >= len(was) {
			break
		}
		b := backendOf(was[i])
		if m, ok := p.group.member(b); ok && !kept[b] && m.slot[p.scope] != 0 {
			next[i] = b
			kept[b] = true
		}
	}
	hole := 0
	for _, b := range p.slots {
		if kept[b] {
			continue
		}
		for next[hole].valid() {
			hole++
		}
		next[hole] = b
	}
	p.slots = next
	for i, b := range next {
		j, _ := p.group.find(b)
		p.group.members[j].slot[p.scope] = uint16(i + 1)
	}
}

// lostSince is what frontends led to in a data plane and do no more: flows may
// be stuck to it since before this process.
func (t *Table) lostSince(prior Prior) (gone []Gone) {
	for f, was := range prior.Frontends {
		var now told
		if e := t.frontends[frontOf(f)]; e != nil {
			now = e.now()
		}
		start := len(gone)
		for i, id := range [2]PoolID{was.Internal, was.External} {
			if id == 0 || i == 1 && id == was.Internal {
				continue
			}
			for _, ap := range prior.Slots[id] {
				b := backendOf(ap)
				m, serving := now.group.member(b)
				if !b.valid() || t.leadsTo(now, m) || slices.ContainsFunc(gone[start:], func(g Gone) bool { return g.Backend == b.addrPort() }) {
					continue
				}
				gone = append(gone, Gone{f, b.addrPort(), serving, id.AffinityClass() > 0})
			}
		}
	}
	slices.SortFunc(gone, func(a, b Gone) int {
		if c := a.Frontend.Compare(b.Frontend); c != 0 {
			return c
		}
		return a.Backend.Compare(b.Backend)
	})
	return gone
}
