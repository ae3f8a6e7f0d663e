package servicetable

import (
	"net/netip"
	"slices"
)

// overlay is what slots held at the last Flush, by pool, of those that changed.
func (t *Table) overlay() map[PoolID]map[uint32]netip.AddrPort {
	if len(t.dirtySlots) == 0 {
		return nil
	}
	was := map[PoolID]map[uint32]netip.AddrPort{}
	for key, old := range t.dirtySlots {
		if was[key.pool] == nil {
			was[key.pool] = map[uint32]netip.AddrPort{}
		}
		was[key.pool][key.slot] = old
	}
	return was
}

// lost appends the backends that a frontend led to at the last Flush, or whose
// flows it had let end, and that it leads to no more.
func (t *Table) lost(gone []Gone, f Frontend, e *entry, next Target, was map[PoolID]map[uint32]netip.AddrPort) []Gone {
	if e.group == nil {
		return gone
	}
	var now *group
	if e.claims != nil {
		now = e.claims.service.groups[e.claims.wish.key]
	}
	start := len(gone)
	add := func(ap netip.AddrPort, bound bool) {
		if !ap.IsValid() || slices.ContainsFunc(gone[start:], func(g Gone) bool { return g.Backend == ap }) {
			return
		}
		var m member
		serving := false
		if now != nil {
			m, serving = now.members[ap]
		}
		for _, v := range []View{next.Internal, next.External} {
			if p := t.pool(v.Pool); v.Pool != 0 && p.group == now && m.slot[p.scope] != 0 {
				return
			}
		}
		if bound || !serving {
			gone = append(gone, Gone{f, ap, serving, e.told.Internal.Pool.AffinityClass() > 0 || e.told.External.Pool.AffinityClass() > 0})
		}
	}
	for i, v := range []View{e.told.Internal, e.told.External} {
		if v.Pool == 0 || i == 1 && v.Pool == e.told.Internal.Pool {
			continue
		}
		for _, old := range was[v.Pool] {
			add(old, true)
		}
		if v.Pool == next.Internal.Pool || v.Pool == next.External.Pool {
			continue
		}
		// The frontend left the pool: what did not change in it is lost too.
		for slot := range v.Size {
			if _, changed := was[v.Pool][slot]; !changed {
				add(t.backend(slotKey{v.Pool, slot}), true)
			}
		}
	}
	for _, ap := range t.left[e.group] {
		add(ap, false)
	}
	return gone
}
