package zone

import (
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Version is that of the specification, told by dns-version.<zone>.
const Version = "1.1.0"

// Zone is the records of a cluster.
type Zone struct {
	domain   string // with a final dot, in lower case
	services map[types.NamespacedName]*service
	reverse  map[netip.Addr]map[types.NamespacedName]string // the names of an address, by Service
	spaces   map[string]int                                 // how many Services a namespace has
	known    map[string]bool                                // namespaces that there are
}

// service is a Service with its slices, and its records.
type service struct {
	spec   *corev1.Service
	slices map[string]*discoveryv1.EndpointSlice

	cname     string
	addrs     []netip.Addr            // of the Service's own name
	hosts     map[string][]netip.Addr // of a headless Service's endpoints, by label
	srv       map[string][]srv        // by "_port._proto"
	reverse   map[netip.Addr]string
	published bool // it has a name at all
}

// srv is a port of the Service itself (host is empty) or of one of its hosts.
type srv struct {
	host string
	port uint16
}

// New makes an empty zone of a domain such as cluster.local.
func New(domain string) *Zone {
	return &Zone{
		domain:   strings.ToLower(strings.TrimSuffix(domain, ".")) + ".",
		services: map[types.NamespacedName]*service{},
		reverse:  map[netip.Addr]map[types.NamespacedName]string{},
		spaces:   map[string]int{},
		known:    map[string]bool{},
	}
}

// Domain is the zone's name, fully qualified.
func (z *Zone) Domain() string { return z.domain }

// SetService adds or replaces a Service. The object is kept and must not be
// changed afterwards.
func (z *Zone) SetService(s *corev1.Service) {
	key := types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
	z.service(key).spec = s
	z.recompute(key)
}

// DeleteService removes a Service's records.
func (z *Zone) DeleteService(key types.NamespacedName) {
	if s := z.services[key]; s != nil {
		s.spec = nil
		z.recompute(key)
	}
}

// SetNamespace says that there is a namespace, whose name then exists even if no
// Service is in it.
func (z *Zone) SetNamespace(name string) {
	z.known[name] = true
}

// DeleteNamespace says that there is none any more.
func (z *Zone) DeleteNamespace(name string) {
	delete(z.known, name)
}

// hasSpace says whether a namespace's name exists.
func (z *Zone) hasSpace(name string) bool { return z.known[name] || z.spaces[name] > 0 }

// SetSlice adds or replaces an EndpointSlice. Only those of headless Services
// have records. The object is kept and must not be changed afterwards.
func (z *Zone) SetSlice(s *discoveryv1.EndpointSlice) {
	name := s.Labels[discoveryv1.LabelServiceName]
	if name == "" {
		return
	}
	key := types.NamespacedName{Namespace: s.Namespace, Name: name}
	z.service(key).slices[s.Name] = s
	z.recompute(key)
}

// DeleteSlice removes an EndpointSlice.
func (z *Zone) DeleteSlice(s *discoveryv1.EndpointSlice) {
	key := types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
	if have := z.services[key]; have != nil {
		delete(have.slices, s.Name)
		z.recompute(key)
	}
}

func (z *Zone) service(key types.NamespacedName) *service {
	s := z.services[key]
	if s == nil {
		s = &service{slices: map[string]*discoveryv1.EndpointSlice{}}
		z.services[key] = s
	}
	return s
}

// recompute works one Service's records out from scratch.
func (z *Zone) recompute(key types.NamespacedName) {
	s := z.services[key]
	was := s.published
	for addr := range s.reverse {
		delete(z.reverse[addr], key)
		if len(z.reverse[addr]) == 0 {
			delete(z.reverse, addr)
		}
	}
	s.cname, s.addrs, s.hosts, s.srv, s.reverse, s.published = "", nil, nil, nil, nil, false
	if s.spec != nil {
		switch {
		case s.spec.Spec.Type == corev1.ServiceTypeExternalName:
			s.cname = strings.ToLower(strings.TrimSuffix(s.spec.Spec.ExternalName, ".")) + "."
			s.published = true
		case s.spec.Spec.ClusterIP == corev1.ClusterIPNone:
			s.headless(z.nameOf(key))
		default:
			s.clusterIP(z.nameOf(key))
		}
	}
	for addr, name := range s.reverse {
		if z.reverse[addr] == nil {
			z.reverse[addr] = map[types.NamespacedName]string{}
		}
		z.reverse[addr][key] = name
	}
	switch {
	case s.published && !was:
		z.spaces[key.Namespace]++
	case !s.published && was:
		if z.spaces[key.Namespace]--; z.spaces[key.Namespace] == 0 {
			delete(z.spaces, key.Namespace)
		}
	}
	if s.spec == nil && len(s.slices) == 0 {
		delete(z.services, key)
	}
}

func (z *Zone) nameOf(key types.NamespacedName) string {
	return key.Name + "." + key.Namespace + ".svc." + z.domain
}

// clusterIP gives the records of a Service with addresses of its own.
func (s *service) clusterIP(name string) {
	ips := s.spec.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{s.spec.Spec.ClusterIP}
	}
	s.reverse = map[netip.Addr]string{}
	for _, text := range ips {
		if a, err := netip.ParseAddr(text); err == nil {
			s.addrs = append(s.addrs, a)
			s.reverse[a] = name
			s.published = true
		}
	}
	s.srv = map[string][]srv{}
	for _, p := range s.spec.Spec.Ports {
		if p.Name != "" {
			label := srvLabel(p.Name, p.Protocol)
			s.srv[label] = append(s.srv[label], srv{port: uint16(p.Port)})
		}
	}
}

func srvLabel(port string, protocol corev1.Protocol) string {
	if protocol == "" {
		protocol = corev1.ProtocolTCP
	}
	return "_" + strings.ToLower(port) + "._" + strings.ToLower(string(protocol))
}

// headless gives the records of a Service that stands for its endpoints. One
// without endpoints does not exist (specification, section 2.4).
func (s *service) headless(name string) {
	s.hosts, s.srv, s.reverse = map[string][]netip.Addr{}, map[string][]srv{}, map[netip.Addr]string{}
	seen := map[netip.Addr]bool{}
	names := slices.Sorted(maps.Keys(s.slices))
	for _, n := range names {
		slice := s.slices[n]
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			// The controller says ready of all where publishNotReadyAddresses is
			// asked for.
			if e.Conditions.Ready != nil && !*e.Conditions.Ready || len(e.Addresses) == 0 {
				continue
			}
			a, err := netip.ParseAddr(e.Addresses[0])
			if err != nil {
				continue
			}
			host := hostOf(e, a)
			if !seen[a] {
				seen[a] = true
				s.addrs = append(s.addrs, a)
			}
			if !slices.Contains(s.hosts[host], a) {
				s.hosts[host] = append(s.hosts[host], a)
			}
			s.reverse[a] = host + "." + name
			for _, p := range slice.Ports {
				if p.Name == nil || *p.Name == "" || p.Port == nil {
					continue
				}
				protocol := corev1.ProtocolTCP
				if p.Protocol != nil {
					protocol = *p.Protocol
				}
				label, r := srvLabel(*p.Name, protocol), srv{host, uint16(*p.Port)}
				if !slices.Contains(s.srv[label], r) {
					s.srv[label] = append(s.srv[label], r)
				}
			}
		}
	}
	s.published = len(s.addrs) > 0
}

// hostOf is an endpoint's own label: its host name, else its address in dashes.
func hostOf(e *discoveryv1.Endpoint, a netip.Addr) string {
	if e.Hostname != nil && *e.Hostname != "" {
		return strings.ToLower(*e.Hostname)
	}
	return Dashed(a)
}

// Dashed writes an address as one label: 10-244-0-7, fd00-10-244--7.
func Dashed(a netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(a.String())
}

// Serial is a number that is that of the zone's name only: the zone is never
// transferred, so nobody compares it.
func (z *Zone) Serial() uint32 {
	h := fnv.New32a()
	fmt.Fprint(h, z.domain)
	return h.Sum32()
}
