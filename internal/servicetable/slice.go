package servicetable

import (
	"net/netip"
	"slices"
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// traits are what counts of an endpoint.
type traits uint8

const (
	isReady    traits = 1 << iota // it serves; without this it ends, and serves as a last resort
	isHere                        // it is on this node
	nodeHinted                    // it is meant for certain nodes
	nodeFits                      // this one among them
	zoneHinted                    // it is meant for certain zones
	zoneFits                      // this node's among them
)

func (t traits) has(all traits) bool { return t&all == all }

type endpoint struct {
	addr   netip.Addr
	traits traits
	zones  zones // of its hints
}

// zones are names of zones, each with a 0 before and after it; the zero value is
// none. There are few different ones in a cluster.
type zones struct{ h unique.Handle[string] }

func zonesOf(hints []discoveryv1.ForZone) zones {
	if len(hints) == 0 {
		return zones{}
	}
	var b strings.Builder
	b.WriteByte(0)
	for _, z := range hints {
		b.WriteString(z.Name)
		b.WriteByte(0)
	}
	return zones{unique.Make(b.String())}
}

// traits of an endpoint with these hints on a node in that zone.
func (z zones) traits(zone string) traits {
	switch {
	case z == zones{}:
		return 0
	case zone != "" && strings.Contains(z.h.Value(), "\x00"+zone+"\x00"):
		return zoneHinted | zoneFits
	}
	return zoneHinted
}

type slicePort struct {
	name     string
	protocol Protocol
	port     uint16
}

// slice is what counts of an EndpointSlice.
type slice struct {
	service   types.NamespacedName
	v4        bool
	ports     []slicePort
	endpoints []endpoint
}

// parseSlice returns nil for a slice that means nothing to a proxy.
func parseSlice(s *discoveryv1.EndpointSlice, cfg Config) *slice {
	name := s.Labels[discoveryv1.LabelServiceName]
	_, headless := s.Labels[corev1.IsHeadlessService]
	if name == "" || headless || s.AddressType == discoveryv1.AddressTypeFQDN {
		return nil
	}
	out := &slice{
		service:   types.NamespacedName{Namespace: s.Namespace, Name: name},
		v4:        s.AddressType == discoveryv1.AddressTypeIPv4,
		ports:     make([]slicePort, 0, len(s.Ports)),
		endpoints: make([]endpoint, 0, len(s.Endpoints)),
	}
	for _, p := range s.Ports {
		var port slicePort
		if p.Name != nil {
			port.name = *p.Name
		}
		var proto corev1.Protocol
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		var ok bool
		if port.protocol, ok = protocol(proto); !ok || p.Port == nil || *p.Port < 1 || *p.Port > 65535 {
			continue
		}
		port.port = uint16(*p.Port)
		if !slices.Contains(out.ports, port) {
			out.ports = append(out.ports, port)
		}
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		is, ok := traitsOf(e, cfg)
		if !ok || len(e.Addresses) == 0 {
			continue
		}
		addr, ok := parseAddr(e.Addresses[0])
		if ok && addr.Is4() == out.v4 {
			end := endpoint{addr: addr, traits: is}
			if e.Hints != nil && is.has(isReady) {
				end.zones = zonesOf(e.Hints.ForZones)
				end.traits |= end.zones.traits(cfg.Zone)
			}
			out.endpoints = append(out.endpoints, end)
		}
	}
	return out
}

// traitsOf says no for an endpoint that serves nobody.
func traitsOf(e *discoveryv1.Endpoint, cfg Config) (traits, bool) {
	var is traits
	ready := e.Conditions.Ready == nil || *e.Conditions.Ready
	serving := e.Conditions.Serving == nil || *e.Conditions.Serving
	terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
	switch {
	case ready:
		is |= isReady
	case !serving || !terminating:
		return 0, false
	}
	if e.NodeName != nil && *e.NodeName == cfg.NodeName {
		is |= isHere
	}
	if e.Hints == nil || !ready {
		return is, true
	}
	for _, n := range e.Hints.ForNodes {
		is |= nodeHinted
		if n.Name == cfg.NodeName {
			is |= nodeFits
		}
	}
	return is, true
}

// in is the slice as a node in another zone reads it; nil where that is the same.
func (sl *slice) in(zone string) *slice {
	var out *slice
	for i, e := range sl.endpoints {
		is := e.traits&^(zoneHinted|zoneFits) | e.zones.traits(zone)
		if is == e.traits {
			continue
		}
		if out == nil {
			c := *sl
			c.endpoints = slices.Clone(sl.endpoints)
			out = &c
		}
		out.endpoints[i].traits = is
	}
	return out
}

// parseAddr refuses addresses that no packet may be sent to on behalf of a
// Service: the sender's own loopback, one link's, several hosts'.
func parseAddr(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, false
	}
	a = a.Unmap()
	if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return netip.Addr{}, false
	}
	return a, true
}
