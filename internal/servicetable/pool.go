package servicetable

import (
	"maps"
	"net/netip"
	"slices"
)

// scope is which endpoints of a Service port a pool draws from.
type scope uint8

const (
	everywhere scope = iota
	here             // on this node only
	scopes
)

// pool is one set of backends in dense slots.
type pool struct {
	id    PoolID
	group *group
	scope scope
	slots []netip.AddrPort
}

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
	label   string // namespace/name:port
	members map[netip.AddrPort]member
	tally   tally
	draw    [scopes]draw
	pools   [scopes]*pool // here is nil unless a policy needs it
}

// draw is which of the endpoints in its scope a pool takes.
type draw uint8

const (
	theEnding draw = iota // nobody is ready: those that end but still serve (KEP-1669)
	theReady              // every ready one
	theNodes              // the ready ones that are meant for this node (KEP-3015)
	theZones              // the ready ones that are meant for this node's zone (KEP-2433)
)

// tally counts a group's ready members.
type tally struct {
	usable                               [scopes]int
	nodeless, forNode, zoneless, forZone int // among all: without that hint, with one that fits
}

// draws says what each pool takes. A hint counts only while every ready
// endpoint has one and one of them fits; policies that ask for this node's
// endpoints know no hints.
func (t tally) draws() (d [scopes]draw) {
	for s := range scopes {
		if t.usable[s] > 0 {
			d[s] = theReady
		}
	}
	switch {
	case t.usable[everywhere] == 0:
	case t.nodeless == 0 && t.forNode > 0:
		d[everywhere] = theNodes
	case t.zoneless == 0 && t.forZone > 0:
		d[everywhere] = theZones
	}
	return d
}

func (t *tally) add(m member, delta int) {
	if !m.has(nReady) {
		return
	}
	t.usable[everywhere] += delta
	if m.has(nReadyHere) {
		t.usable[here] += delta
	}
	if m.count[nNodeHinted] < m.count[nReady] {
		t.nodeless += delta
	}
	if m.has(nNodeFits) {
		t.forNode += delta
	}
	if m.count[nZoneHinted] < m.count[nReady] {
		t.zoneless += delta
	}
	if m.has(nZoneFits) {
		t.forZone += delta
	}
}

// What is counted of a member.
const (
	nReady = iota
	nReadyHere
	nEnding
	nEndingHere
	nNodeHinted
	nNodeFits
	nZoneHinted
	nZoneFits
	counts
)

// member is an endpoint: how many slices have it with which traits, and its slot
// plus one in each pool.
type member struct {
	count [counts]uint16
	slot  [scopes]uint32
	since uint32 // how many times the table had been flushed when it came
}

func (m member) has(what int) bool { return m.count[what] > 0 }

func (m member) isHere() bool { return m.has(nReadyHere) || m.has(nEndingHere) }

func (m member) gone() bool { return m.count == [counts]uint16{} }

// add counts an endpoint of these traits in, or out.
func (m *member) add(is traits, delta int) {
	note := func(trait traits, what int) {
		if is.has(trait) {
			m.count[what] += uint16(delta)
		}
	}
	if !is.has(isReady) {
		note(0, nEnding)
		note(isHere, nEndingHere)
		return
	}
	note(0, nReady)
	note(isHere, nReadyHere)
	note(nodeHinted, nNodeHinted)
	note(nodeFits, nNodeFits)
	note(zoneHinted, nZoneHinted)
	note(zoneFits, nZoneFits)
}

// wanted says whether a member belongs into the pool of that scope.
func (g *group) wanted(m member, s scope) bool {
	local := s == here
	switch g.draw[s] {
	case theReady:
		return m.has(nReady) && (!local || m.has(nReadyHere))
	case theNodes:
		return m.has(nNodeFits)
	case theZones:
		return m.has(nZoneFits)
	}
	return m.has(nEnding) && (!local || m.has(nEndingHere))
}

// count adds an endpoint of a slice, or takes it away.
func (t *Table) count(g *group, ap netip.AddrPort, is traits, delta int) {
	before, known := g.members[ap]
	m := before
	if !known {
		m.since = t.flushes
	}
	m.add(is, delta)
	g.tally.add(before, -1)
	g.tally.add(m, +1)
	if m.isHere() != before.isHere() {
		t.countLocal(ap.Addr(), m.isHere())
	}
	if g.service.spec.healthPort != 0 && m.has(nReadyHere) != before.has(nReadyHere) {
		t.dirtyHealth[g.service] = struct{}{}
	}
	g.members[ap] = m
	t.touched = append(t.touched, ap)
}

// settle brings the pools up to what was counted.
func (t *Table) settle(g *group) {
	was := g.draw
	g.draw = g.tally.draws()
	for s, p := range g.pools {
		switch {
		case p == nil:
		case g.draw[s] != was[s]:
			t.fill(p)
		default:
			for _, ap := range t.touched {
				t.place(p, ap)
			}
		}
	}
	for _, ap := range t.touched {
		if m, ok := g.members[ap]; ok && m.gone() {
			delete(g.members, ap)
			if m.since != t.flushes {
				t.left[g] = append(t.left[g], ap)
			}
			t.dirtyGroup(g)
		}
	}
	t.touched = t.touched[:0]
}

// fill places every member of a pool's group, in a fixed order.
func (t *Table) fill(p *pool) {
	for _, ap := range slices.SortedFunc(maps.Keys(p.group.members), netip.AddrPort.Compare) {
		t.place(p, ap)
	}
}

// place puts a member into its pool or takes it out.
func (t *Table) place(p *pool, ap netip.AddrPort) {
	m, ok := p.group.members[ap]
	slot := m.slot[p.scope]
	switch want := ok && p.group.wanted(m, p.scope); {
	case want && slot == 0:
		t.dirtySlot(p, uint32(len(p.slots)), netip.AddrPort{})
		p.slots = append(p.slots, ap)
		m.slot[p.scope] = uint32(len(p.slots))
		p.group.members[ap] = m
		t.dirtyGroup(p.group)
	case !want && slot != 0:
		last := uint32(len(p.slots) - 1)
		t.dirtySlot(p, last, p.slots[last])
		if slot-1 != last {
			t.dirtySlot(p, slot-1, ap)
			moved := p.slots[last]
			p.slots[slot-1] = moved
			mm := p.group.members[moved]
			mm.slot[p.scope] = slot
			p.group.members[moved] = mm
		}
		p.slots = p.slots[:last]
		m.slot[p.scope] = 0
		p.group.members[ap] = m
		t.dirtyGroup(p.group)
	}
}

// addPool gives a group a pool of that scope. Without a free number there is
// none, and what should have led to it refuses.
func (t *Table) addPool(g *group, s scope, class uint8) {
	number, ok := t.takeNumber()
	if !ok {
		return
	}
	p := &pool{id: poolID(number, class), group: g, scope: s}
	t.pools[number] = p
	g.pools[s] = p
	t.fill(p)
}

func (t *Table) removePool(g *group, s scope) {
	p := g.pools[s]
	if p == nil {
		return
	}
	for i, ap := range p.slots {
		t.dirtySlot(p, uint32(i), ap)
		m := g.members[ap]
		m.slot[s] = 0
		g.members[ap] = m
	}
	g.pools[s] = nil
	t.pools[p.id.number()] = nil
	t.free = append(t.free, p.id.number())
}

func (t *Table) takeNumber() (uint32, bool) {
	if n := len(t.free); n > 0 {
		number := t.free[n-1]
		t.free = t.free[:n-1]
		return number, true
	}
	if len(t.pools) > MaxPools {
		return 0, false
	}
	t.pools = append(t.pools, nil)
	return uint32(len(t.pools) - 1), true
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
