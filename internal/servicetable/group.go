package servicetable

import (
	"bytes"
	"math"
	"slices"
)

// portKey names the port of a Service in one family.
type portKey struct {
	name     string
	protocol Protocol
	v4       bool
}

// group is all endpoints of a Service port in one family, with the pools drawn
// from them.
type group struct {
	key     portKey
	service *service
	label   string   // namespace/name:port
	members []member // sorted
	tally   tally
	draw    [scopes]draw
	over    [scopes]bool  // a pool takes not all that it should
	pools   [scopes]*pool // here is nil unless a policy needs it
}

// member is an endpoint of a group.
type member struct {
	backend
	traits traits
	fresh  bool           // it came after the last Flush
	slices uint16         // that have it
	slot   [scopes]uint16 // plus one, in each pool
}

// draw is which of the endpoints in its scope a pool takes.
type draw uint8

const (
	theEnding draw = iota // nobody is ready: those that end but still serve (KEP-1669)
	theReady              // every ready one
	theNodes              // the ready ones that are meant for this node (KEP-3015)
	theZones              // the ready ones that are meant for this node's zone (KEP-2433)
)

// takes says which traits make an endpoint one of a pool's.
func (d draw) takes(s scope) traits {
	switch {
	case d == theNodes:
		return nodeFits
	case d == theZones:
		return zoneFits
	case d == theReady && s == here:
		return readyHere
	case d == theReady:
		return ready
	case s == here:
		return endingHere
	}
	return ending
}

// tally counts a group's members by trait.
type tally [8]int32

func (t *tally) add(is traits, delta int32) {
	for i := range t {
		if is&(1<<i) != 0 {
			t[i] += delta
		}
	}
}

func (t *tally) count(one traits) int32 {
	for i := range t {
		if one == 1<<i {
			return t[i]
		}
	}
	return 0
}

// draws says what each pool takes. A hint counts only while every ready
// endpoint has one and one of them fits; policies that ask for this node's
// endpoints know no hints.
func (t *tally) draws() (d [scopes]draw) {
	if t.count(readyHere) > 0 {
		d[here] = theReady
	}
	switch {
	case t.count(ready) == 0:
	case t.count(nodeless) == 0 && t.count(nodeFits) > 0:
		d[everywhere] = theNodes
	case t.count(zoneless) == 0 && t.count(zoneFits) > 0:
		d[everywhere] = theZones
	default:
		d[everywhere] = theReady
	}
	return d
}

func (g *group) find(b backend) (int, bool) {
	// Slices come sorted: what is new goes to the end.
	if n := len(g.members); n == 0 || g.members[n-1].compare(b) < 0 {
		return n, false
	}
	return slices.BinarySearchFunc(g.members, b, func(m member, b backend) int { return m.compare(b) })
}

func (g *group) member(b backend) (member, bool) {
	if g == nil {
		return member{}, false
	}
	i, ok := g.find(b)
	if !ok {
		return member{}, false
	}
	return g.members[i], true
}

func (t *Table) addGroup(s *service, key portKey) *group {
	g := &group{key: key, service: s, label: s.name.String()}
	if key.name != "" {
		g.label += ":" + key.name
	}
	for _, sl := range s.slices {
		t.recount(g, nil, sl)
	}
	for sc := range scopes {
		if s.spec.needs(sc) {
			t.addPool(g, sc)
		}
	}
	return g
}

func (t *Table) removeGroup(g *group) {
	for sc := range scopes {
		t.removePool(g, sc)
		t.noteOver(g, sc, false)
	}
	for _, m := range g.members {
		if m.traits.isHere() {
			t.countLocal(m.ip, -1)
		}
		t.leave(g, m)
	}
	if g.members = nil; g.service.spec.healthPort != 0 {
		t.dirtyHealth(g.service)
	}
}

// leave notes a member that a group lost.
func (t *Table) leave(g *group, m member) {
	if t.told && !m.fresh {
		t.left[g] = append(t.left[g], m.backend)
	}
}

// recount replaces one slice of a group's Service, which is already done in the
// Service, by another, and brings the pools up to it.
func (t *Table) recount(g *group, old, next *slice) {
	for i := range both(old, next) {
		port := portAt(old, next, i)
		if port.name != g.key.name || port.protocol != g.key.protocol || port.again(old, next, i) {
			continue
		}
		t.merge(g, port.port, old.of(g, port.port), next.of(g, port.port))
	}
	t.settle(g)
}

func both(old, next *slice) int {
	n := 0
	for _, sl := range []*slice{old, next} {
		if sl != nil {
			n += len(sl.ports)
		}
	}
	return n
}

// portAt is a port of either slice.
func portAt(old, next *slice, i int) slicePort {
	if old != nil {
		if i < len(old.ports) {
			return old.ports[i]
		}
		i -= len(old.ports)
	}
	return next.ports[i]
}

// again says that a port at i is one of the old slice's, seen before.
func (p slicePort) again(old, next *slice, i int) bool {
	return old != nil && i >= len(old.ports) && slices.Contains(old.ports, p) && old.v4 == next.v4
}

// merge walks two sorted lists and touches what differs.
func (t *Table) merge(g *group, port uint16, old, next []listed) {
	if more := len(next) - len(old); more > 0 && cap(g.members) < len(g.members)+more {
		g.members = slices.Grow(g.members, more)
	}
	for len(old) > 0 || len(next) > 0 {
		order := -1
		switch {
		case len(old) == 0:
			order = 1
		case len(next) > 0:
			order = bytes.Compare(old[0].ip[:], next[0].ip[:])
		}
		switch {
		case order < 0:
			t.touch(g, backend{old[0].ip, port}, old[0].traits, 0)
			old = old[1:]
		case order > 0:
			t.touch(g, backend{next[0].ip, port}, 0, next[0].traits)
			next = next[1:]
		default:
			if old[0].traits != next[0].traits {
				t.touch(g, backend{next[0].ip, port}, old[0].traits, next[0].traits)
			}
			old, next = old[1:], next[1:]
		}
	}
}

// touch counts one backend that a slice had with these traits (0 for not at all)
// and has with others now.
func (t *Table) touch(g *group, b backend, was, is traits) {
	i, found := g.find(b)
	if !found {
		if is == 0 {
			return
		}
		g.members = slices.Insert(g.members, i, member{backend: b, fresh: t.told})
		if t.told {
			t.fresh = append(t.fresh, groupMember{g, b})
		}
	}
	m := &g.members[i]
	before := m.traits
	switch {
	case was == 0:
		m.traits |= is
		if m.slices < math.MaxUint16 {
			m.slices++
		}
	case m.slices == 1:
		if m.traits = is; is == 0 {
			m.slices = 0
		}
	default: // other slices have it too
		m.traits, m.slices = 0, 0
		for _, sl := range g.service.slices {
			if also := sl.has(g, b); also != 0 {
				m.traits |= also
				if m.slices < math.MaxUint16 {
					m.slices++
				}
			}
		}
	}
	now := m.traits
	if now == before && m.slices > 0 && found {
		return
	}
	g.tally.add(before, -1)
	g.tally.add(now, +1)
	if now.isHere() != before.isHere() {
		if now.isHere() {
			t.countLocal(b.ip, +1)
		} else {
			t.countLocal(b.ip, -1)
		}
	}
	if g.service.spec.healthPort != 0 && now.has(readyHere) != before.has(readyHere) {
		t.dirtyHealth(g.service)
	}
	t.touched = append(t.touched, b)
}

// settle brings the pools up to what was counted.
func (t *Table) settle(g *group) {
	was := g.draw
	g.draw = g.tally.draws()
	changed := false
	for sc, p := range g.pools {
		if p == nil {
			continue
		}
		take := g.draw[sc].takes(scope(sc))
		if over := g.tally.count(take) > MaxEndpoints; g.draw[sc] != was[sc] || over || g.over[sc] {
			changed = true
			t.fill(p)
			continue
		}
		for _, b := range t.touched {
			if i, ok := g.find(b); ok && t.place(p, i, g.members[i].traits.has(take)) {
				changed = true
			}
		}
	}
	for _, b := range t.touched {
		if i, ok := g.find(b); ok && g.members[i].slices == 0 {
			t.leave(g, g.members[i])
			g.members = slices.Delete(g.members, i, i+1)
			changed = true
		}
	}
	if changed {
		t.dirtyGroup(g)
	}
	if t.touched = t.touched[:0]; cap(t.touched) > keep {
		t.touched = nil
	}
}
