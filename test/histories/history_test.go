package histories

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"viaduct.dev/viaduct/internal/proxy/oracle"
)

// History is what happens to a cluster, seen from one node.
type History struct {
	Steps []Step `json:"steps"`
}

// Step is one thing that happens; of its fields one is set.
type Step struct {
	Service       *corev1.Service            `json:"service,omitempty"`
	DeleteService string                     `json:"deleteService,omitempty"`
	Slice         *discoveryv1.EndpointSlice `json:"slice,omitempty"`
	DeleteSlice   string                     `json:"deleteSlice,omitempty"`
	Zone          *string                    `json:"zone,omitempty"`
	Restart       bool                       `json:"restart,omitempty"`
	// More says that the next step is programmed together with this one.
	More bool `json:"more,omitempty"`
	// Probes chooses which packets are sent.
	Probes uint64 `json:"probes,omitempty"`
}

// namespace is every object's.
const namespace = "default"

func named(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: namespace, Name: name}
}

// cluster is what a history has led to.
type cluster struct {
	node     oracle.Node
	services map[string]*corev1.Service
	slices   map[string]*discoveryv1.EndpointSlice
}

func newCluster(node oracle.Node) *cluster {
	return &cluster{node: node, services: map[string]*corev1.Service{}, slices: map[string]*discoveryv1.EndpointSlice{}}
}

func (c *cluster) take(s Step) {
	switch {
	case s.Service != nil:
		c.services[s.Service.Name] = s.Service
	case s.DeleteService != "":
		delete(c.services, s.DeleteService)
	case s.Slice != nil:
		c.slices[s.Slice.Name] = s.Slice
	case s.DeleteSlice != "":
		delete(c.slices, s.DeleteSlice)
	case s.Zone != nil:
		c.node.Zone = *s.Zone
	}
}

// model is the cluster for the oracle.
func (c *cluster) model() *oracle.Cluster {
	m := &oracle.Cluster{Node: c.node}
	for _, name := range slices.Sorted(maps.Keys(c.services)) {
		m.Services = append(m.Services, c.services[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.slices)) {
		m.Slices = append(m.Slices, c.slices[name])
	}
	return m
}
