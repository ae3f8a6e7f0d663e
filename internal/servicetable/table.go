package servicetable

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Config says whose table it is.
type Config struct {
	// NodeName is this node's, by which its own endpoints are known.
	NodeName string
	// Zone is the node's topology.kubernetes.io/zone; empty where it has none.
	Zone string
}

// Table holds the two maps. Make it with New.
type Table struct {
	cfg       Config
	services  map[types.NamespacedName]*service
	sliceOf   map[types.NamespacedName]types.NamespacedName // slice -> its service
	frontends map[Frontend]*entry
	pools     []*pool // by number
	free      []uint32
	local     map[netip.Addr]int
	revision  Revision
	flushes   uint32

	// What happened since the last Flush.
	touched     []netip.AddrPort
	dirtyFronts map[Frontend]struct{}
	dirtySlots  map[slotKey]netip.AddrPort
	dirtyLocals map[netip.Addr]bool // was there before
	dirtyHealth map[*service]struct{}
	diff        Diff
	left        map[*group][]netip.AddrPort // members that groups lost
}

// entry is a frontend: who wants it, best claim first, and what it led to at
// the last Flush.
type entry struct {
	claims  *claim
	told    Target
	group   *group         // that told is about
	sources []netip.Prefix // as told last
}

type claim struct {
	service *service
	wish    wish
	next    *claim
	behind  types.NamespacedName // the Service that was told to have it instead
}

type slotKey struct {
	pool PoolID
	slot uint32
}

// New returns an empty table.
func New(cfg Config) *Table {
	return &Table{
		cfg:         cfg,
		services:    map[types.NamespacedName]*service{},
		sliceOf:     map[types.NamespacedName]types.NamespacedName{},
		frontends:   map[Frontend]*entry{},
		pools:       make([]*pool, 1), // number 0 is no pool
		local:       map[netip.Addr]int{},
		dirtyFronts: map[Frontend]struct{}{},
		dirtySlots:  map[slotKey]netip.AddrPort{},
		dirtyLocals: map[netip.Addr]bool{},
		dirtyHealth: map[*service]struct{}{},
		left:        map[*group][]netip.AddrPort{},
	}
}

// SetService adds a Service or replaces it.
func (t *Table) SetService(svc *corev1.Service) {
	t.revision.Services = newer(t.revision.Services, svc.ResourceVersion)
	s := t.service(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name})
	next := parseService(svc)
	if s.declared && next.equal(s.spec) {
		return // such as a new status
	}
	s.declared = true
	t.declare(s, next)
}

// DeleteService takes a Service away. resourceVersion is that of the deletion.
func (t *Table) DeleteService(name types.NamespacedName, resourceVersion string) {
	t.revision.Services = newer(t.revision.Services, resourceVersion)
	if s := t.services[name]; s != nil && s.declared {
		t.declare(s, spec{})
		s.declared = false
		t.forget(s)
	}
}

// SetSlice adds an EndpointSlice or replaces it.
func (t *Table) SetSlice(es *discoveryv1.EndpointSlice) {
	t.revision.EndpointSlices = newer(t.revision.EndpointSlices, es.ResourceVersion)
	name := types.NamespacedName{Namespace: es.Namespace, Name: es.Name}
	next := parseSlice(es, t.cfg)
	if owner, ok := t.sliceOf[name]; ok && (next == nil || next.service != owner) {
		t.setSlice(name, owner, nil)
	}
	if next != nil {
		t.setSlice(name, next.service, next)
	}
}

// Zone is the zone that the table was told last.
func (t *Table) Zone() string { return t.cfg.Zone }

// SetZone says what zone the node is in now.
func (t *Table) SetZone(zone string) {
	if zone == t.cfg.Zone {
		return
	}
	t.cfg.Zone = zone
	for name, owner := range t.sliceOf {
		if next := t.services[owner].slices[name.Name].in(zone); next != nil {
			t.setSlice(name, owner, next)
		}
	}
}

// Services are the names of all Services that were set and not deleted.
func (t *Table) Services() iter.Seq[types.NamespacedName] {
	return func(yield func(types.NamespacedName) bool) {
		for name, s := range t.services {
			if s.declared && !yield(name) {
				return
			}
		}
	}
}

// Slices are the names of the EndpointSlices that were set, mean something to a
// proxy, and were not deleted.
func (t *Table) Slices() iter.Seq[types.NamespacedName] { return maps.Keys(t.sliceOf) }

// DeleteSlice takes an EndpointSlice away. resourceVersion is that of the deletion.
func (t *Table) DeleteSlice(name types.NamespacedName, resourceVersion string) {
	t.revision.EndpointSlices = newer(t.revision.EndpointSlices, resourceVersion)
	if owner, ok := t.sliceOf[name]; ok {
		t.setSlice(name, owner, nil)
	}
}

func (t *Table) setSlice(name, owner types.NamespacedName, next *slice) {
	s := t.service(owner)
	old := s.slices[name.Name]
	if next == nil {
		delete(s.slices, name.Name)
		delete(t.sliceOf, name)
	} else {
		s.slices[name.Name] = next
		if old == nil {
			t.sliceOf[name] = owner
		}
	}
	for _, g := range s.groups {
		t.recount(g, old, next)
	}
	t.forget(s)
}

func (t *Table) service(name types.NamespacedName) *service {
	s := t.services[name]
	if s == nil {
		s = &service{name: name, slices: map[string]*slice{}, groups: map[portKey]*group{}}
		t.services[name] = s
	}
	return s
}

func (t *Table) forget(s *service) {
	if !s.declared && len(s.slices) == 0 {
		delete(t.services, s.name)
	}
}

func (t *Table) claim(s *service, w wish) {
	t.dirtyFronts[w.frontend] = struct{}{}
	e := t.frontends[w.frontend]
	if e == nil {
		e = &entry{}
		t.frontends[w.frontend] = e
	}
	c := &claim{service: s, wish: w}
	at := &e.claims
	for *at != nil && older(*at, c) {
		at = &(*at).next
	}
	c.next, *at = *at, c
}

func (t *Table) unclaim(s *service, f Frontend) {
	t.dirtyFronts[f] = struct{}{}
	e := t.frontends[f]
	for at := &e.claims; *at != nil; at = &(*at).next {
		if (*at).service == s {
			*at = (*at).next
			return
		}
	}
}

func (t *Table) countLocal(a netip.Addr, added bool) {
	n := t.local[a]
	if _, dirty := t.dirtyLocals[a]; !dirty {
		t.dirtyLocals[a] = n > 0
	}
	if added {
		n++
	} else {
		n--
	}
	if n > 0 {
		t.local[a] = n
	} else {
		delete(t.local, a)
	}
}

func (t *Table) dirtySlot(p *pool, slot uint32, old netip.AddrPort) {
	key := slotKey{p.id, slot}
	if _, ok := t.dirtySlots[key]; !ok {
		t.dirtySlots[key] = old
	}
}

// dirtyGroup marks the frontends that show a group's size.
func (t *Table) dirtyGroup(g *group) {
	for i := range g.service.claimed {
		if w := &g.service.claimed[i]; w.key == g.key {
			t.dirtyFronts[w.frontend] = struct{}{}
		}
	}
}

// target is what a frontend leads to now, and its holder.
func (e *entry) target() Target {
	if e.claims == nil {
		return Target{}
	}
	return e.claims.service.target(e.claims.wish)
}

func (t *Table) backend(key slotKey) netip.AddrPort {
	number := key.pool.number()
	if int(number) < len(t.pools) {
		if p := t.pools[number]; p != nil && p.id == key.pool && int(key.slot) < len(p.slots) {
			return p.slots[key.slot]
		}
	}
	return netip.AddrPort{}
}

// Flush tells what changed since the last time, in a fixed order.
func (t *Table) Flush() Diff {
	d := &t.diff
	d.Frontends, d.Slots, d.Local, d.Gone = d.Frontends[:0], d.Slots[:0], d.Local[:0], d.Gone[:0]
	d.Sources, d.Health, d.Conflicts = d.Sources[:0], d.Health[:0], d.Conflicts[:0]
	d.Revision = t.revision
	was := t.overlay()
	for f := range t.dirtyFronts {
		e := t.frontends[f]
		next := e.target()
		d.Gone = t.lost(d.Gone, f, e, next, was)
		if e.group = nil; e.claims != nil {
			e.group = e.claims.service.groups[e.claims.wish.key]
		}
		if next != e.told {
			d.Frontends = append(d.Frontends, FrontendChange{f, e.told, next})
			e.told = next
		}
		d.tellSources(f, e)
		d.tellConflicts(f, e)
		if e.claims == nil {
			delete(t.frontends, f)
		}
	}
	for key, old := range t.dirtySlots {
		if next := t.backend(key); next != old {
			d.Slots = append(d.Slots, SlotChange{key.pool, key.slot, old, next})
		}
	}
	for a, was := range t.dirtyLocals {
		if is := t.local[a] > 0; is != was {
			d.Local = append(d.Local, LocalChange{a, is})
		}
	}
	for s := range t.dirtyHealth {
		if now := s.healthNow(); now != s.health {
			d.Health = append(d.Health, now)
			s.health = now
		}
	}
	t.clean()
	d.sort()
	return *d
}

// tellSources adds what changed of a frontend's source ranges.
func (d *Diff) tellSources(f Frontend, e *entry) {
	var now []netip.Prefix
	if e.told.Guarded {
		for _, p := range e.claims.service.spec.sources {
			if p.Addr().Is4() == f.Addr.Is4() {
				now = append(now, p)
			}
		}
	}
	for _, p := range e.sources {
		if !slices.Contains(now, p) {
			d.Sources = append(d.Sources, SourceChange{f, p, false})
		}
	}
	for _, p := range now {
		if !slices.Contains(e.sources, p) {
			d.Sources = append(d.Sources, SourceChange{f, p, true})
		}
	}
	e.sources = now
}

// tellConflicts adds the Services that are behind another one anew.
func (d *Diff) tellConflicts(f Frontend, e *entry) {
	if e.claims == nil {
		return
	}
	holder := e.claims.service.name
	for c := e.claims.next; c != nil; c = c.next {
		if c.behind != holder && c.service.name != holder {
			d.Conflicts = append(d.Conflicts, Conflict{f, c.service.name, holder})
		}
		c.behind = holder
	}
}

func (t *Table) clean() {
	t.flushes++
	clear(t.dirtyFronts)
	clear(t.dirtySlots)
	clear(t.dirtyLocals)
	clear(t.dirtyHealth)
	clear(t.left)
}

func (d *Diff) sort() {
	slices.SortFunc(d.Frontends, func(a, b FrontendChange) int { return a.Frontend.Compare(b.Frontend) })
	slices.SortFunc(d.Slots, func(a, b SlotChange) int {
		return cmp.Or(cmp.Compare(a.Pool, b.Pool), cmp.Compare(a.Slot, b.Slot))
	})
	slices.SortFunc(d.Local, func(a, b LocalChange) int { return a.Addr.Compare(b.Addr) })
	slices.SortFunc(d.Gone, func(a, b Gone) int {
		return cmp.Or(a.Frontend.Compare(b.Frontend), a.Backend.Compare(b.Backend))
	})
	slices.SortFunc(d.Sources, func(a, b SourceChange) int {
		return cmp.Or(a.Frontend.Compare(b.Frontend), a.Range.Compare(b.Range))
	})
	slices.SortFunc(d.Health, func(a, b HealthChange) int { return cmp.Compare(a.Service.String(), b.Service.String()) })
	slices.SortFunc(d.Conflicts, func(a, b Conflict) int {
		return cmp.Or(a.Frontend.Compare(b.Frontend), cmp.Compare(a.Service.String(), b.Service.String()))
	})
}
