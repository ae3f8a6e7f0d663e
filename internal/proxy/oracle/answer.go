package oracle

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Place is where a packet comes from.
type Place string

// The places.
const (
	PodHere  Place = "a Pod of this node"
	PodThere Place = "a Pod of another node"
	Host     Place = "this node"
	Outside  Place = "outside"
)

// Packet is the first of a connection, or a datagram, as it leaves the caller.
type Packet struct {
	From     Place
	Source   netip.Addr
	To       netip.AddrPort
	Protocol corev1.Protocol
}

// String is such as "outside (172.20.0.200) to 10.96.0.1:80/TCP".
func (p Packet) String() string {
	return fmt.Sprintf("%s (%s) to %s/%s", p.From, p.Source, p.To, p.Protocol)
}

// Verdict is what becomes of a packet.
type Verdict string

// The verdicts.
const (
	NotOurs Verdict = "is no Service's"
	Serve   Verdict = "is served"
	Refuse  Verdict = "is refused"
	Drop    Verdict = "is dropped"
	// TurnedAway is refused or dropped, but never forwarded.
	TurnedAway Verdict = "is turned away"
)

// Answer is all that may become of a packet.
type Answer struct {
	Verdict Verdict
	// Service is whose packet it is: namespace/name:port.
	Service string
	// Endpoints may answer, with equal chances.
	Endpoints []Endpoint
	// Sticky says that a caller who came before stays with its endpoint.
	Sticky bool
}

// Endpoint is one that may answer.
type Endpoint struct {
	Addr netip.AddrPort
	// Masqueraded says that it sees the node's address, not the caller's.
	Masqueraded bool
}

// Answer says what becomes of a packet.
func (c *Cluster) Answer(p Packet) Answer {
	v4 := p.To.Addr().Is4()
	of, ok := c.holder(p.To, p.Protocol)
	if !ok {
		return Answer{Verdict: c.stray(p.To.Addr())}
	}
	a := Answer{Service: of.String(), Sticky: of.service.Spec.SessionAffinity == corev1.ServiceAffinityClientIP}
	if of.guarded && !c.admits(of.service, p) {
		a.Verdict = Drop
		return a
	}

	local, masquerade := of.service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal, false
	switch {
	case of.kind == clusterIP:
		local = or(of.service.Spec.InternalTrafficPolicy, "") == corev1.ServiceInternalTrafficPolicyLocal
		masquerade = c.Node.MasqueradeAll || c.knowsPods(v4) && !c.isPod(p)
	case !local:
		masquerade = true
	case c.isPod(p):
		local = false
	case p.From == Host:
		local, masquerade = false, true
	}

	all := c.endpoints(of, v4)
	chosen := clusterWide(all, c.Node)
	if len(chosen) == 0 {
		a.Verdict = Refuse
		return a
	}
	if local {
		if chosen = ofThisNode(all); len(chosen) == 0 {
			a.Verdict = Drop
			return a
		}
	}
	a.Verdict = Serve
	for _, e := range chosen {
		hairpin := e.here && e.addr.Addr() == p.Source
		leaves := !slices.Contains(c.Node.Addresses, e.addr.Addr())
		a.Endpoints = append(a.Endpoints, Endpoint{e.addr, (masquerade || hairpin) && leaves})
	}
	return a
}

// clusterWide are the endpoints of the policy Cluster.
func clusterWide(all []endpoint, node Node) []endpoint {
	ready := filter(all, func(e endpoint) bool { return e.ready })
	if len(ready) == 0 {
		return all // those that end
	}
	forNode := filter(ready, func(e endpoint) bool { return slices.Contains(e.forNodes, node.Name) })
	forZone := filter(ready, func(e endpoint) bool { return node.Zone != "" && slices.Contains(e.forZones, node.Zone) })
	switch {
	case len(forNode) > 0 && !slices.ContainsFunc(ready, func(e endpoint) bool { return e.nodeless }):
		return forNode
	case len(forZone) > 0 && !slices.ContainsFunc(ready, func(e endpoint) bool { return e.zoneless }):
		return forZone
	}
	return ready
}

// ofThisNode are the endpoints of the policy Local.
func ofThisNode(all []endpoint) []endpoint {
	here := filter(all, func(e endpoint) bool { return e.here })
	if ready := filter(here, func(e endpoint) bool { return e.ready }); len(ready) > 0 {
		return ready
	}
	return here
}

func filter(all []endpoint, keep func(endpoint) bool) []endpoint {
	return slices.DeleteFunc(slices.Clone(all), func(e endpoint) bool { return !keep(e) })
}

// stray says what becomes of a packet that no Service's port takes.
func (c *Cluster) stray(to netip.Addr) Verdict {
	for _, s := range c.Services {
		if proxied(s) && len(s.Spec.Ports) > 0 && slices.Contains(clusterIPs(s, to.Is4()), to) {
			return Refuse
		}
	}
	if contains(c.Node.ServiceCIDRs, to) {
		return TurnedAway
	}
	return NotOurs
}

// knowsPods says whether Pods are told from others at all, in a family.
func (c *Cluster) knowsPods(v4 bool) bool {
	return c.Node.PodsByInterface || slices.ContainsFunc(c.Node.LocalCIDRs, func(p netip.Prefix) bool { return p.Addr().Is4() == v4 })
}

func (c *Cluster) isPod(p Packet) bool {
	if c.Node.PodsByInterface {
		return p.From == PodHere
	}
	return contains(c.Node.LocalCIDRs, p.Source)
}

// admits says whether a Service's source ranges let a caller in.
func (c *Cluster) admits(s *corev1.Service, p Packet) bool {
	texts := s.Spec.LoadBalancerSourceRanges
	if annotation := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]; len(texts) == 0 && strings.TrimSpace(annotation) != "" {
		texts = strings.Split(annotation, ",")
	}
	if len(texts) == 0 {
		return true
	}
	var ranges []netip.Prefix
	for _, t := range texts {
		if r, err := netip.ParsePrefix(strings.TrimSpace(t)); err == nil {
			ranges = append(ranges, r)
		}
	}
	if contains(ranges, p.Source) {
		return true
	}
	ownAddress := slices.IndexFunc(c.Node.Addresses, func(a netip.Addr) bool { return a.Is4() == p.Source.Is4() })
	return ownAddress >= 0 && contains(ranges, c.Node.Addresses[ownAddress]) && slices.Contains(balancerIPs(s, p.Source.Is4()), p.Source)
}

func contains(all []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Contains(a) })
}
