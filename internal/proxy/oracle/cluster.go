package oracle

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Cluster is all that counts of a cluster, seen from one node.
type Cluster struct {
	Node     Node
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice
}

// Node is the node whose data plane it is, and how its proxy was set up.
type Node struct {
	Name, Zone string
	// Addresses are the node's, the primary one of each family first.
	Addresses []netip.Addr
	// NodePortAddresses offer node ports.
	NodePortAddresses []netip.Addr
	// LocalCIDRs tell Pods by their address; PodsByInterface by where a packet
	// came in, so that only Pods of this node are known.
	LocalCIDRs      []netip.Prefix
	PodsByInterface bool
	ServiceCIDRs    []netip.Prefix
	MasqueradeAll   bool
}

// kind is what a Service has an address as.
type kind int

const (
	clusterIP kind = iota
	externalIP
	balancerIP
	nodePort
)

// claim is a port of a Service at the address that was dialled.
type claim struct {
	service *corev1.Service
	port    corev1.ServicePort
	kind    kind
	guarded bool // the address is the Service's load-balancer address
}

func (c claim) String() string {
	s := c.service.Namespace + "/" + c.service.Name
	if c.port.Name != "" {
		s += ":" + c.port.Name
	}
	return s
}

// proxied says whether a Service counts.
func proxied(s *corev1.Service) bool {
	_, other := s.Labels["service.kubernetes.io/service-proxy-name"]
	return !other && s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone
}

// parsed are the addresses of one family that may travel.
func parsed(texts []string, v4 bool) []netip.Addr {
	var all []netip.Addr
	for _, t := range texts {
		a, err := netip.ParseAddr(t)
		if a = a.Unmap(); err != nil || a.Zone() != "" || a.Is4() != v4 {
			continue
		}
		if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			continue
		}
		all = append(all, a)
	}
	return all
}

func clusterIPs(s *corev1.Service, v4 bool) []netip.Addr {
	return parsed(append([]string{s.Spec.ClusterIP}, s.Spec.ClusterIPs...), v4)
}

func balancerIPs(s *corev1.Service, v4 bool) []netip.Addr {
	var ips []string
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
				ips = append(ips, in.IP)
			}
		}
	}
	return parsed(ips, v4)
}

func protocolOf(p corev1.Protocol) corev1.Protocol { return cmp.Or(p, corev1.ProtocolTCP) }

// holder is the claim on an address and port that counts.
func (c *Cluster) holder(to netip.AddrPort, protocol corev1.Protocol) (claim, bool) {
	v4 := to.Addr().Is4()
	var all []claim
	for _, s := range c.Services {
		if !proxied(s) || len(clusterIPs(s, v4)) == 0 {
			continue
		}
		for _, p := range s.Spec.Ports {
			if protocolOf(p.Protocol) != protocol {
				continue
			}
			if p.Port == int32(to.Port()) {
				guarded := slices.Contains(balancerIPs(s, v4), to.Addr())
				switch {
				case slices.Contains(clusterIPs(s, v4), to.Addr()):
					all = append(all, claim{s, p, clusterIP, false})
				case guarded:
					all = append(all, claim{s, p, balancerIP, true})
				case slices.Contains(parsed(s.Spec.ExternalIPs, v4), to.Addr()):
					all = append(all, claim{s, p, externalIP, false})
				}
			}
			hasNodePorts := s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
			if hasNodePorts && p.NodePort == int32(to.Port()) && slices.Contains(c.Node.NodePortAddresses, to.Addr()) {
				all = append(all, claim{s, p, nodePort, false})
			}
		}
	}
	if len(all) == 0 {
		return claim{}, false
	}
	return slices.MinFunc(all, func(a, b claim) int {
		rank := map[kind]int{clusterIP: 0, externalIP: 1, balancerIP: 1, nodePort: 2}
		return cmp.Or(cmp.Compare(rank[a.kind], rank[b.kind]),
			a.service.CreationTimestamp.Compare(b.service.CreationTimestamp.Time),
			strings.Compare(a.service.Namespace+"/"+a.service.Name, b.service.Namespace+"/"+b.service.Name))
	}), true
}

// endpoint is an address and port that stands behind a Service's port, with what
// all slices say of it together.
type endpoint struct {
	addr     netip.AddrPort
	ready    bool
	ending   bool // terminating, and still serving
	here     bool
	forNodes []string
	forZones []string
	nodeless bool // some slice has no hint for nodes
	zoneless bool
}

// endpoints are all that stand behind a claim in a family.
func (c *Cluster) endpoints(of claim, v4 bool) []endpoint {
	family := map[bool]discoveryv1.AddressType{true: discoveryv1.AddressTypeIPv4, false: discoveryv1.AddressTypeIPv6}[v4]
	told := map[netip.AddrPort][]discoveryv1.Endpoint{}
	for _, s := range c.Slices {
		_, headless := s.Labels[corev1.IsHeadlessService]
		if s.Namespace != of.service.Namespace || s.Labels[discoveryv1.LabelServiceName] != of.service.Name || headless || s.AddressType != family {
			continue
		}
		for _, p := range s.Ports {
			if p.Port == nil || *p.Port < 1 || *p.Port > 65535 || or(p.Name, "") != of.port.Name || protocolOf(or(p.Protocol, "")) != protocolOf(of.port.Protocol) {
				continue
			}
			for _, e := range s.Endpoints {
				if a := parsed(e.Addresses[:min(1, len(e.Addresses))], v4); len(a) == 1 {
					at := netip.AddrPortFrom(a[0], uint16(*p.Port))
					told[at] = append(told[at], e)
				}
			}
		}
	}
	var all []endpoint
	for at, records := range told {
		ready := slices.ContainsFunc(records, isReady)
		e := endpoint{addr: at, ready: ready}
		for _, r := range records {
			if ready && !isReady(r) || !ready && !isEnding(r) {
				continue
			}
			e.ending = !ready
			e.here = e.here || or(r.NodeName, "") == c.Node.Name
			hints := or(r.Hints, discoveryv1.EndpointHints{})
			e.nodeless = e.nodeless || len(hints.ForNodes) == 0
			e.zoneless = e.zoneless || len(hints.ForZones) == 0
			for _, n := range hints.ForNodes {
				e.forNodes = append(e.forNodes, n.Name)
			}
			for _, z := range hints.ForZones {
				e.forZones = append(e.forZones, z.Name)
			}
		}
		if e.ready || e.ending {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b endpoint) int { return a.addr.Compare(b.addr) })
	return all
}

func isReady(e discoveryv1.Endpoint) bool { return or(e.Conditions.Ready, true) }

func isEnding(e discoveryv1.Endpoint) bool {
	return !isReady(e) && or(e.Conditions.Serving, true) && or(e.Conditions.Terminating, false)
}

// or is what p points to, or else the other.
func or[T any](p *T, other T) T {
	if p == nil {
		return other
	}
	return *p
}
