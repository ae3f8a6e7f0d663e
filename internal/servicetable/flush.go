package servicetable

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
)

// keep is how long a list may be that is kept for the next time.
const keep = 4096

// slotChange is a slot that changed since the last Flush, and what it held.
type slotChange struct {
	pool PoolID
	slot uint32
	old  backend
}

type localChange struct {
	ip  ip
	was bool
}

type groupMember struct {
	group   *group
	backend backend
}

type groupScope struct {
	group *group
	scope scope
}

func (t *Table) dirtySlot(p *pool, slot int, old backend) {
	if t.told {
		t.dirtySlots = append(t.dirtySlots, slotChange{p.id, uint32(slot), old})
	}
}

func (t *Table) dirtyHealth(s *service) {
	if !s.dirty {
		s.dirty = true
		t.dirtyHealths = append(t.dirtyHealths, s)
	}
}

func (t *Table) countLocal(a ip, delta int32) {
	n := t.local[a]
	if t.told {
		t.dirtyLocals = append(t.dirtyLocals, localChange{a, n > 0})
	}
	if n += delta; n > 0 {
		t.local[a] = n
	} else {
		delete(t.local, a)
	}
}

// slotsOf are the changed slots of a pool, in order.
func (t *Table) slotsOf(id PoolID) []slotChange {
	from, _ := slices.BinarySearchFunc(t.dirtySlots, id, func(c slotChange, id PoolID) int { return cmp.Compare(c.pool, id) })
	to := from
	for to < len(t.dirtySlots) && t.dirtySlots[to].pool == id {
		to++
	}
	return t.dirtySlots[from:to]
}

func (t *Table) backendAt(id PoolID, slot uint32) backend {
	if p := t.pool(id); p != nil && p.id == id && int(slot) < len(p.slots) {
		return p.slots[slot]
	}
	return backend{}
}

// Flush tells what changed since the last time, in a fixed order. What it costs
// grows with the change alone.
func (t *Table) Flush() Diff {
	if !t.told {
		return t.Snapshot()
	}
	d := &t.diff
	d.reset()
	d.Revision = t.revision
	// Of several changes of a slot the first tells what it held.
	slices.SortStableFunc(t.dirtySlots, func(a, b slotChange) int {
		return cmp.Or(cmp.Compare(a.pool, b.pool), cmp.Compare(a.slot, b.slot))
	})
	t.dirtySlots = slices.CompactFunc(t.dirtySlots, func(a, b slotChange) bool { return a.pool == b.pool && a.slot == b.slot })
	for _, c := range t.dirtySlots {
		if next := t.backendAt(c.pool, c.slot); next != c.old {
			d.Slots = append(d.Slots, SlotChange{c.pool, c.slot, c.old.addrPort(), next.addrPort()})
		}
	}
	slices.SortFunc(t.dirtyFronts, func(a, b *entry) int { return a.front.compare(b.front) })
	for _, e := range t.dirtyFronts {
		now := e.now()
		d.Gone = t.lost(d.Gone, e, now)
		old, next := e.told.target(), now.target()
		e.told, e.dirty = now, false
		if next != old {
			d.Frontends = append(d.Frontends, FrontendChange{e.front.frontend(), old, next})
		}
		t.tellSources(d, e)
		d.tellConflicts(e)
		if e.claims == nil {
			delete(t.frontends, e.front)
		}
	}
	slices.SortStableFunc(t.dirtyLocals, func(a, b localChange) int { return bytes.Compare(a.ip[:], b.ip[:]) })
	t.dirtyLocals = slices.CompactFunc(t.dirtyLocals, func(a, b localChange) bool { return a.ip == b.ip })
	for _, c := range t.dirtyLocals {
		if is := t.local[c.ip] > 0; is != c.was {
			d.Local = append(d.Local, LocalChange{c.ip.addr(), is})
		}
	}
	for _, s := range t.dirtyHealths {
		now := s.healthNow()
		switch {
		case now == nil && s.health != nil:
			d.Health = append(d.Health, HealthChange{Service: s.name})
		case now != nil && (s.health == nil || *now != *s.health):
			d.Health = append(d.Health, *now)
		}
		s.health = now
	}
	t.tellOverflows(d, false)
	t.clean()
	d.sort()
	return *d
}

// tellSources adds what changed of a frontend's source ranges.
func (t *Table) tellSources(d *Diff, e *entry) {
	was, now := t.sources[e.front], e.ranges()
	for _, p := range was {
		if !slices.Contains(now, p) {
			d.Sources = append(d.Sources, SourceChange{e.front.frontend(), p, false})
		}
	}
	for _, p := range now {
		if !slices.Contains(was, p) {
			d.Sources = append(d.Sources, SourceChange{e.front.frontend(), p, true})
		}
	}
	switch {
	case len(now) > 0:
		t.sources[e.front] = now
	case len(was) > 0:
		delete(t.sources, e.front)
	}
}

// tellConflicts adds the Services that are behind another one anew.
func (d *Diff) tellConflicts(e *entry) {
	if e.claims == nil {
		return
	}
	holder := e.claims.service
	for c := e.claims.next; c != nil; c = c.next {
		if c.behind != holder && c.service != holder {
			d.Conflicts = append(d.Conflicts, Conflict{e.front.frontend(), c.service.name, holder.name})
		}
		c.behind = holder
	}
}

// tellOverflows adds the pools that do not take all they should, anew or at all.
func (t *Table) tellOverflows(d *Diff, all bool) {
	for k, told := range t.overs {
		if told && !all {
			continue
		}
		t.overs[k] = true
		n := int(k.group.tally.count(k.group.draw[k.scope].takes(k.scope)))
		taken := 0
		if p := k.group.pools[k.scope]; p != nil {
			taken = len(p.slots)
		}
		d.Overflows = append(d.Overflows, Overflow{Service: k.group.service.name, Port: k.group.label, Endpoints: n, Served: taken})
	}
}

// clean forgets what has been told. Lists that one great change made long are
// not kept.
func (t *Table) clean() {
	for _, f := range t.fresh {
		if i, ok := f.group.find(f.backend); ok {
			f.group.members[i].fresh = false
		}
	}
	for _, s := range t.dirtyHealths {
		s.dirty = false
	}
	t.fresh, t.dirtyFronts = emptied(t.fresh), emptied(t.dirtyFronts)
	t.dirtySlots, t.dirtyLocals, t.dirtyHealths = emptied(t.dirtySlots), emptied(t.dirtyLocals), emptied(t.dirtyHealths)
	if len(t.left) > 0 {
		t.left = map[*group][]backend{}
	}
}

func emptied[T any](s []T) []T {
	if cap(s) > keep {
		return nil
	}
	clear(s)
	return s[:0]
}

// reset empties a diff for the next change.
func (d *Diff) reset() {
	d.Frontends, d.Slots, d.Local, d.Gone = emptied(d.Frontends), emptied(d.Slots), emptied(d.Local), emptied(d.Gone)
	d.Sources, d.Health, d.Conflicts, d.Overflows = emptied(d.Sources), emptied(d.Health), emptied(d.Conflicts), emptied(d.Overflows)
}

// sort orders what is not in order yet.
func (d *Diff) sort() {
	slices.SortFunc(d.Sources, func(a, b SourceChange) int {
		return cmp.Or(a.Frontend.Compare(b.Frontend), a.Range.Compare(b.Range))
	})
	slices.SortFunc(d.Health, func(a, b HealthChange) int { return strings.Compare(a.Service.String(), b.Service.String()) })
	slices.SortFunc(d.Conflicts, func(a, b Conflict) int {
		return cmp.Or(a.Frontend.Compare(b.Frontend), strings.Compare(a.Service.String(), b.Service.String()))
	})
	slices.SortFunc(d.Overflows, func(a, b Overflow) int {
		return cmp.Or(strings.Compare(a.Port, b.Port), cmp.Compare(a.Endpoints, b.Endpoints), cmp.Compare(a.Served, b.Served))
	})
}

// Snapshot is the whole table as a change from nothing. What happened until now
// is told by it, so the next Flush tells only what happens after it. After Adopt
// it tells too what frontends lost since the data plane was written.
func (t *Table) Snapshot() Diff {
	d := Diff{Revision: t.revision, Gone: t.adopted}
	t.adopted = nil
	entries := make([]*entry, 0, len(t.frontends))
	for f, e := range t.frontends {
		if e.claims == nil {
			delete(t.frontends, f)
			continue
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b *entry) int { return a.front.compare(b.front) })
	clear(t.sources)
	d.Frontends = make([]FrontendChange, 0, len(entries))
	for _, e := range entries {
		e.told, e.dirty = e.now(), false
		d.Frontends = append(d.Frontends, FrontendChange{Frontend: e.front.frontend(), New: e.told.target()})
		t.tellSources(&d, e)
		d.tellConflicts(e)
	}
	for _, s := range t.services {
		if s.health = s.healthNow(); s.health != nil {
			d.Health = append(d.Health, *s.health)
		}
	}
	pools, slots := make([]*pool, 0, len(t.pools)), 0
	for _, p := range t.pools {
		if p != nil {
			pools = append(pools, p)
			slots += len(p.slots)
		}
	}
	slices.SortFunc(pools, func(a, b *pool) int { return cmp.Compare(a.id, b.id) })
	d.Slots = make([]SlotChange, 0, slots)
	for _, p := range pools {
		for i, b := range p.slots {
			d.Slots = append(d.Slots, SlotChange{Pool: p.id, Slot: uint32(i), New: b.addrPort()})
		}
	}
	for a := range t.local {
		d.Local = append(d.Local, LocalChange{a.addr(), true})
	}
	slices.SortFunc(d.Local, func(a, b LocalChange) int { return a.Addr.Compare(b.Addr) })
	t.tellOverflows(&d, true)
	t.told = true
	t.clean()
	d.sort()
	return d
}

func (t *Table) pool(id PoolID) *pool {
	if int(id.number()) < len(t.pools) {
		return t.pools[id.number()]
	}
	return nil
}
