package servicetable

import "slices"

// lost appends, sorted, the backends that a frontend led to at the last Flush,
// or whose flows it had let end, and that it leads to no more.
func (t *Table) lost(gone []Gone, e *entry, now told) []Gone {
	if e.told.group == nil {
		return gone
	}
	all := t.candidates[:0]
	for i, v := range [2]View{e.told.internal, e.told.external} {
		if v.Pool == 0 || i == 1 && v.Pool == e.told.internal.Pool {
			continue
		}
		changed := t.slotsOf(v.Pool)
		for _, c := range changed {
			all = append(all, c.old)
		}
		if v.Pool == now.internal.Pool || v.Pool == now.external.Pool {
			continue
		}
		// The frontend left the pool: what did not change in it is lost too.
		for slot := range v.Size {
			for len(changed) > 0 && changed[0].slot < slot {
				changed = changed[1:]
			}
			if len(changed) == 0 || changed[0].slot != slot {
				all = append(all, t.backendAt(v.Pool, slot))
			}
		}
	}
	bound := len(all)
	all = append(all, t.left[e.told.group]...)
	affinity := e.told.internal.Pool.AffinityClass() > 0 || e.told.external.Pool.AffinityClass() > 0
	start := len(gone)
	for i, b := range all {
		m, serving := now.group.member(b)
		if !b.valid() || t.leadsTo(now, m) || serving && i >= bound {
			continue
		}
		gone = append(gone, Gone{e.front.frontend(), b.addrPort(), serving, affinity})
	}
	if t.candidates = all[:0]; cap(all) > keep {
		t.candidates = nil
	}
	slices.SortFunc(gone[start:], func(a, b Gone) int { return a.Backend.Compare(b.Backend) })
	return gone[:start+len(slices.Compact(gone[start:]))]
}

// leadsTo says whether a frontend's pools have a member of its group.
func (t *Table) leadsTo(now told, m member) bool {
	for _, v := range [2]View{now.internal, now.external} {
		if v.Pool != 0 && m.slot[t.pools[v.Pool.number()].scope] != 0 {
			return true
		}
	}
	return false
}
