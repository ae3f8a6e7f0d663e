package servicetable

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unique"

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
	slices    map[types.NamespacedName]*slice
	frontends map[front]*entry
	pools     []*pool // by number
	maxPools  int
	free      []uint32                 // numbers below len(pools)
	waiting   []groupScope             // for a number
	overs     map[groupScope]bool      // pools that take not all they should, told or not
	local     map[ip]int32             // endpoints on this node, and how often
	sources   map[front][]netip.Prefix // as told last
	revision  Revision

	// What happened since the last Flush; nothing is noted before the first.
	told         bool
	dirtyFronts  []*entry
	dirtySlots   []slotChange
	dirtyLocals  []localChange
	dirtyHealths []*service
	fresh        []groupMember
	left         map[*group][]backend // members that groups lost
	adopted      []Gone

	// Used again each time.
	diff       Diff
	parsed     []parsed
	touched    []backend
	candidates []backend
}

// New returns an empty table.
func New(cfg Config) *Table {
	return &Table{
		cfg:       cfg,
		services:  map[types.NamespacedName]*service{},
		slices:    map[types.NamespacedName]*slice{},
		frontends: map[front]*entry{},
		pools:     make([]*pool, 1), // number 0 is no pool
		maxPools:  MaxPools,
		overs:     map[groupScope]bool{},
		local:     map[ip]int32{},
		sources:   map[front][]netip.Prefix{},
		left:      map[*group][]backend{},
	}
}

// SetService adds a Service or replaces it.
func (t *Table) SetService(svc *corev1.Service) {
	t.revision.Services = newer(t.revision.Services, svc.ResourceVersion)
	s := t.service(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name})
	next, wishes := parseService(svc)
	if s.declared && next.equal(s.spec) && s.has(wishes) {
		return // such as a new status
	}
	s.declared = true
	t.declare(s, next, wishes)
}

// DeleteService takes a Service away. resourceVersion is that of the deletion.
func (t *Table) DeleteService(name types.NamespacedName, resourceVersion string) {
	t.revision.Services = newer(t.revision.Services, resourceVersion)
	if s := t.services[name]; s != nil && s.declared {
		t.declare(s, spec{}, nil)
		s.declared = false
		t.forget(s)
	}
}

// SetSlice adds an EndpointSlice or replaces it.
func (t *Table) SetSlice(es *discoveryv1.EndpointSlice) {
	t.revision.EndpointSlices = newer(t.revision.EndpointSlices, es.ResourceVersion)
	name := types.NamespacedName{Namespace: es.Namespace, Name: es.Name}
	owner := types.NamespacedName{Namespace: es.Namespace, Name: es.Labels[discoveryv1.LabelServiceName]}
	_, headless := es.Labels[corev1.IsHeadlessService]
	old := t.slices[name]
	means := owner.Name != "" && !headless && (es.AddressType == discoveryv1.AddressTypeIPv4 || es.AddressType == discoveryv1.AddressTypeIPv6)
	if old != nil && (!means || old.service.name != owner) {
		t.replace(name, old, nil)
		old = nil
	}
	if !means {
		return
	}
	next := t.parseSlice(es)
	if old != nil {
		next.name, next.service = old.name, old.service
	} else {
		next.name, next.service = es.Name, t.service(owner)
	}
	t.replace(name, old, next)
}

// Zone is the zone that the table was told last.
func (t *Table) Zone() string { return t.cfg.Zone }

// SetZone says what zone the node is in now.
func (t *Table) SetZone(zone string) {
	if zone == t.cfg.Zone {
		return
	}
	t.cfg.Zone = zone
	var hinted []types.NamespacedName
	for name, sl := range t.slices {
		if sl.zones != nil {
			hinted = append(hinted, name)
		}
	}
	slices.SortFunc(hinted, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	for _, name := range hinted {
		old := t.slices[name]
		if next := old.in(zone); next != nil {
			t.replace(name, old, next)
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
func (t *Table) Slices() iter.Seq[types.NamespacedName] { return maps.Keys(t.slices) }

// DeleteSlice takes an EndpointSlice away. resourceVersion is that of the deletion.
func (t *Table) DeleteSlice(name types.NamespacedName, resourceVersion string) {
	t.revision.EndpointSlices = newer(t.revision.EndpointSlices, resourceVersion)
	if old := t.slices[name]; old != nil {
		t.replace(name, old, nil)
	}
}

// replace puts a slice in another's place; either may be nil.
func (t *Table) replace(name types.NamespacedName, old, next *slice) {
	var s *service
	switch {
	case old == nil:
		s = next.service
		s.slices = append(s.slices, next)
		t.slices[types.NamespacedName{Namespace: s.name.Namespace, Name: next.name}] = next
	case next == nil:
		s = old.service
		i := slices.Index(s.slices, old)
		s.slices = slices.Delete(s.slices, i, i+1)
		delete(t.slices, name)
	default:
		s = next.service
		s.slices[slices.Index(s.slices, old)] = next
		t.slices[name] = next
	}
	for _, g := range s.groups {
		t.recount(g, old, next)
	}
	t.forget(s)
}

func (t *Table) service(name types.NamespacedName) *service {
	s := t.services[name]
	if s == nil {
		name.Namespace = unique.Make(name.Namespace).Value()
		s = &service{name: name}
		t.services[name] = s
	}
	return s
}

func (t *Table) forget(s *service) {
	if !s.declared && len(s.slices) == 0 {
		delete(t.services, s.name)
	}
}
