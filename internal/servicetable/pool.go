package servicetable

import "slices"

// scope is which endpoints of a Service port a pool draws from.
type scope uint8

const (
	everywhere scope = iota
	here             // on this node only
	scopes
)

// MaxEndpoints is how many backends a pool has at most; of more, those with the
// lowest addresses serve.
const MaxEndpoints = 10_000

// pool is one set of backends in dense slots.
type pool struct {
	id    PoolID
	scope scope
	group *group
	slots []backend
}

// fill places every member of a pool's group, in a fixed order.
func (t *Table) fill(p *pool) {
	g := p.group
	take := g.draw[p.scope].takes(p.scope)
	n := int(g.tally.count(take))
	t.noteOver(g, p.scope, n > MaxEndpoints)
	if len(p.slots) == 0 && n > 0 {
		p.slots = slices.Grow(p.slots, min(n, MaxEndpoints))
	}
	room := MaxEndpoints
	for i := range g.members {
		want := room > 0 && g.members[i].traits.has(take)
		if want {
			room--
		}
		t.place(p, i, want)
	}
}

// place puts a member into its pool or takes it out, if that is not so yet.
func (t *Table) place(p *pool, i int, want bool) bool {
	m := &p.group.members[i]
	slot := m.slot[p.scope]
	switch {
	case want && slot == 0:
		t.dirtySlot(p, len(p.slots), backend{})
		p.slots = append(p.slots, m.backend)
		m.slot[p.scope] = uint16(len(p.slots))
		return true
	case !want && slot != 0:
		last := len(p.slots) - 1
		t.dirtySlot(p, last, p.slots[last])
		if at := int(slot - 1); at != last {
			t.dirtySlot(p, at, m.backend)
			moved := p.slots[last]
			p.slots[at] = moved
			j, _ := p.group.find(moved)
			p.group.members[j].slot[p.scope] = slot
		}
		p.slots = p.slots[:last]
		m.slot[p.scope] = 0
		return true
	}
	return false
}

// addPool gives a group a pool of that scope. Without a free number there is
// none until another pool leaves one, and what should have led to it refuses.
func (t *Table) addPool(g *group, s scope) {
	number, ok := t.takeNumber()
	if !ok {
		t.waiting = append(t.waiting, groupScope{g, s})
		t.noteOver(g, s, true)
		return
	}
	p := &pool{id: poolID(number, g.service.spec.affinity), group: g, scope: s}
	t.pools[number] = p
	g.pools[s] = p
	t.fill(p)
}

func (t *Table) removePool(g *group, s scope) {
	p := g.pools[s]
	if p == nil {
		t.waiting = slices.DeleteFunc(t.waiting, func(w groupScope) bool { return w == groupScope{g, s} })
		return
	}
	for i, b := range p.slots {
		t.dirtySlot(p, i, b)
	}
	for i := range g.members {
		g.members[i].slot[s] = 0
	}
	g.pools[s] = nil
	t.pools[p.id.number()] = nil
	t.free = append(t.free, p.id.number())
}

// serveWaiting gives numbers that became free to pools that wait for one.
func (t *Table) serveWaiting() {
	for len(t.waiting) > 0 && len(t.free) > 0 {
		w := t.waiting[0]
		t.waiting = t.waiting[1:]
		t.addPool(w.group, w.scope)
		t.dirtyGroup(w.group)
	}
}

func (t *Table) takeNumber() (uint32, bool) {
	if n := len(t.free); n > 0 {
		number := t.free[n-1]
		t.free = t.free[:n-1]
		return number, true
	}
	if len(t.pools) > t.maxPools {
		return 0, false
	}
	t.pools = append(t.pools, nil)
	return uint32(len(t.pools) - 1), true
}

// noteOver notes that a pool takes not all endpoints that it should, or does.
func (t *Table) noteOver(g *group, s scope, over bool) {
	if g.over[s] == over {
		return
	}
	g.over[s] = over
	if over {
		t.overs[groupScope{g, s}] = false
	} else {
		delete(t.overs, groupScope{g, s})
	}
}

// view is what a policy makes of a group.
func (g *group) view(local bool) View {
	all := g.pools[everywhere]
	if all == nil || len(all.slots) == 0 {
		return View{Verdict: Refuse}
	}
	p := all
	if local {
		if p = g.pools[here]; p == nil || len(p.slots) == 0 {
			return View{Verdict: Drop}
		}
	}
	return View{Verdict: Serve, Pool: p.id, Size: uint32(len(p.slots))}
}
