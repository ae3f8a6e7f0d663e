package servicetable

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// traits are what counts of an endpoint. Those of one that several slices have
// are the union: it is ready if any says so (kubernetes/kubernetes#135266), and
// lacks a hint if any that says so lacks it.
type traits uint8

const (
	ready traits = 1 << iota // it serves
	readyHere
	ending // it goes, and serves as a last resort
	endingHere
	nodeless // ready, and meant for no node in particular
	nodeFits // ready, and meant for this node
	zoneless // the same of zones
	zoneFits
)

func (t traits) has(any traits) bool { return t&any != 0 }

func (t traits) isHere() bool { return t.has(readyHere | endingHere) }

// listed is an endpoint of a slice.
type listed struct {
	ip     ip
	traits traits
}

type slicePort struct {
	name     string
	protocol Protocol
	port     uint16
}

// slice is what counts of an EndpointSlice.
type slice struct {
	name      string // in the Service's namespace
	service   *service
	v4        bool
	ports     []slicePort
	endpoints []listed // sorted, each address once
	zones     []zones  // of the endpoints; nil where none is hinted
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

func (z zones) with(o zones) zones {
	switch {
	case o == zones{} || z == o:
		return z
	case z == zones{}:
		return o
	}
	return zones{unique.Make(z.h.Value() + o.h.Value())}
}

func (z zones) has(zone string) bool {
	return z != zones{} && zone != "" && strings.Contains(z.h.Value(), "\x00"+zone+"\x00")
}

// parsed is an endpoint while its slice is read.
type parsed struct {
	listed
	zones zones
}

// parseSlice reads a slice. Its name and service are for the caller to enter.
func (t *Table) parseSlice(s *discoveryv1.EndpointSlice) *slice {
	out := &slice{v4: s.AddressType == discoveryv1.AddressTypeIPv4, ports: make([]slicePort, 0, len(s.Ports))}
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
		if port.name != "" {
			port.name = unique.Make(port.name).Value()
		}
		if !slices.Contains(out.ports, port) {
			out.ports = append(out.ports, port)
		}
	}
	all, sorted, hinted := t.parsed[:0], true, false
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		var p parsed
		if len(e.Addresses) == 0 || !p.read(e, t.cfg) {
			continue
		}
		// Of several addresses one is used; the API gives them one.
		addr, ok := parseAddr(e.Addresses[0])
		if !ok || addr.Is4() != out.v4 {
			continue
		}
		p.ip = ip(addr.As16())
		if n := len(all); n > 0 && bytes.Compare(all[n-1].ip[:], p.ip[:]) >= 0 {
			sorted = false
		}
		hinted = hinted || p.zones != zones{}
		all = append(all, p)
	}
	if !sorted {
		slices.SortFunc(all, func(a, b parsed) int { return bytes.Compare(a.ip[:], b.ip[:]) })
		n := 0
		for _, p := range all {
			if n > 0 && all[n-1].ip == p.ip {
				all[n-1].traits |= p.traits
				all[n-1].zones = all[n-1].zones.with(p.zones)
				continue
			}
			all[n] = p
			n++
		}
		all = all[:n]
	}
	out.endpoints = make([]listed, len(all))
	for i, p := range all {
		out.endpoints[i] = p.listed
	}
	if hinted {
		out.zones = make([]zones, len(all))
		for i, p := range all {
			out.zones[i] = p.zones
		}
	}
	if t.parsed = all[:0]; cap(all) > keep {
		t.parsed = nil
	}
	return out
}

// read says no for an endpoint that serves nobody.
func (p *parsed) read(e *discoveryv1.Endpoint, cfg Config) bool {
	here := e.NodeName != nil && *e.NodeName == cfg.NodeName
	isReady := e.Conditions.Ready == nil || *e.Conditions.Ready
	if !isReady {
		serving := e.Conditions.Serving == nil || *e.Conditions.Serving // as kube-proxy reads it
		terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
		if p.traits = ending; here {
			p.traits |= endingHere
		}
		return serving && terminating
	}
	if p.traits = ready; here {
		p.traits |= readyHere
	}
	if e.Hints == nil || len(e.Hints.ForNodes) == 0 {
		p.traits |= nodeless
	}
	if e.Hints == nil || len(e.Hints.ForZones) == 0 {
		p.traits |= zoneless
	}
	if e.Hints == nil {
		return true
	}
	for _, n := range e.Hints.ForNodes {
		if n.Name == cfg.NodeName {
			p.traits |= nodeFits
		}
	}
	if p.zones = zonesOf(e.Hints.ForZones); p.zones.has(cfg.Zone) {
		p.traits |= zoneFits
	}
	return true
}

// in is the slice as a node in another zone reads it; nil where that is the same.
func (sl *slice) in(zone string) *slice {
	var out *slice
	for i, z := range sl.zones {
		is := sl.endpoints[i].traits &^ zoneFits
		if z.has(zone) {
			is |= zoneFits
		}
		if is == sl.endpoints[i].traits {
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

// of is the endpoints that a slice gives a group under a port.
func (sl *slice) of(g *group, port uint16) []listed {
	if sl != nil && sl.v4 == g.key.v4 && slices.Contains(sl.ports, slicePort{g.key.name, g.key.protocol, port}) {
		return sl.endpoints
	}
	return nil
}

// has is the traits of a backend in a slice; 0 if it is not there.
func (sl *slice) has(g *group, b backend) traits {
	all := sl.of(g, b.port)
	i, ok := slices.BinarySearchFunc(all, b.ip, func(e listed, a ip) int { return bytes.Compare(e.ip[:], a[:]) })
	if !ok {
		return 0
	}
	return all[i].traits
}

// parseAddr refuses addresses that no packet may be sent to on behalf of a
// Service: the sender's own loopback, one link's, several hosts'. The node's own
// are fine: a Pod on the host's network has them, and external IPs that are
// nodes' are usual where there is no load balancer.
func parseAddr(s string) (netip.Addr, bool) {
	if len(s) > 64 {
		return netip.Addr{}, false
	}
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
