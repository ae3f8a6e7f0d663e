package zone

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

var (
	none   = Answer{}
	noData = Answer{Exists: true}
)

// Contains says whether a name is in the zone; it is fully qualified and in
// lower case.
func (z *Zone) Contains(name string) bool {
	return name == z.domain || strings.HasSuffix(name, "."+z.domain)
}

// Answer answers a question for a name of the zone, fully qualified and in lower
// case. A CNAME within the zone is followed.
func (z *Zone) Answer(name string, qtype Type) Answer {
	return z.answer(name, qtype, 8)
}

func (z *Zone) answer(name string, qtype Type, hops int) Answer {
	if name == z.domain {
		return z.apex(qtype)
	}
	labels := strings.Split(strings.TrimSuffix(name, "."+z.domain), ".")
	slices.Reverse(labels)
	switch labels[0] {
	case "svc":
		return z.svc(name, labels[1:], qtype, hops)
	case "pod":
		return z.pod(name, labels[1:], qtype)
	case "dns-version":
		if len(labels) > 1 {
			return none
		}
		if qtype != TXT {
			return noData
		}
		return Answer{Exists: true, Records: []Record{{Name: name, Type: TXT, Text: Version}}}
	case "dns":
		if len(labels) == 2 && labels[1] == "ns" { // ns.dns.<zone>, the name server's own name
			return addresses(name, z.nameServer(), qtype)
		}
		if len(labels) == 1 {
			return noData
		}
	}
	return none
}

// apex answers for the zone's own name.
func (z *Zone) apex(qtype Type) Answer {
	switch qtype {
	case NS:
		return Answer{Exists: true, Records: []Record{{Name: z.domain, Type: NS, Target: "ns.dns." + z.domain}}}
	case SOA:
		return Answer{Exists: true, Records: []Record{{Name: z.domain, Type: SOA}}}
	}
	return noData
}

// nameServer is the addresses of the cluster's DNS Service.
func (z *Zone) nameServer() []netip.Addr {
	if s := z.services[types.NamespacedName{Namespace: "kube-system", Name: "kube-dns"}]; s != nil {
		return s.addrs
	}
	return nil
}

// svc answers below svc.<zone>; rest is namespace, service and what is below it.
func (z *Zone) svc(name string, rest []string, qtype Type, hops int) Answer {
	if len(rest) == 0 {
		return noData
	}
	if !z.hasSpace(rest[0]) {
		return none
	}
	if len(rest) == 1 {
		return noData
	}
	s := z.services[types.NamespacedName{Namespace: rest[0], Name: rest[1]}]
	if s == nil || !s.published {
		return none
	}
	below := rest[2:]
	switch {
	case s.cname != "":
		if len(below) > 0 {
			return none
		}
		return z.cname(name, s.cname, qtype, hops)
	case len(below) == 0:
		if qtype == SRV {
			return z.allPorts(name, s)
		}
		return addresses(name, s.addrs, qtype)
	case len(below) == 2 && below[0][:min(1, len(below[0]))] == "_":
		return z.ports(name, s, below[1]+"."+below[0], qtype)
	case len(below) == 1:
		if addrs, ok := s.hosts[below[0]]; ok {
			return addresses(name, addrs, qtype)
		}
		for label := range s.srv { // _tcp alone has names below it
			if strings.HasSuffix(label, "."+below[0]) {
				return noData
			}
		}
	}
	return none
}

func addresses(name string, addrs []netip.Addr, qtype Type) Answer {
	a := Answer{Exists: true}
	for _, addr := range addrs {
		if addr.Is4() && qtype == A || addr.Is6() && qtype == AAAA {
			a.Records = append(a.Records, Record{Name: name, Type: qtype, Addr: addr})
		}
	}
	return a
}

// cname answers with the alias, and with what its target has where that is in
// the zone.
func (z *Zone) cname(name, target string, qtype Type, hops int) Answer {
	a := Answer{Exists: true, Records: []Record{{Name: name, Type: CNAME, Target: target}}}
	if qtype == CNAME || hops == 0 || !z.Contains(target) {
		return a
	}
	next := z.answer(target, qtype, hops-1)
	a.Records = append(a.Records, next.Records...)
	a.Extra = next.Extra
	return a
}

// ports answers _port._proto.<service>.
func (z *Zone) ports(name string, s *service, label string, qtype Type) Answer {
	all, ok := s.srv[label]
	if !ok {
		return none
	}
	if qtype != SRV {
		return noData
	}
	return z.srvRecords(name, s, all)
}

// allPorts answers SRV for the Service's own name with every named port, as
// CoreDNS does.
func (z *Zone) allPorts(name string, s *service) Answer {
	var all []srv
	for _, label := range slices.Sorted(maps.Keys(s.srv)) {
		all = append(all, s.srv[label]...)
	}
	if len(all) == 0 {
		return noData
	}
	return z.srvRecords(name, s, all)
}

func (z *Zone) srvRecords(name string, s *service, all []srv) Answer {
	own := z.nameOf(types.NamespacedName{Namespace: s.spec.Namespace, Name: s.spec.Name})
	a := Answer{Exists: true}
	weight := uint16(max(1, 100/len(all)))
	extra := map[string]bool{}
	for _, r := range all {
		target, addrs := own, s.addrs
		if r.host != "" {
			target, addrs = r.host+"."+own, s.hosts[r.host]
		}
		a.Records = append(a.Records, Record{Name: name, Type: SRV, Target: target, Port: r.port, Weight: weight})
		if extra[target] {
			continue
		}
		extra[target] = true
		for _, addr := range addrs {
			t := A
			if addr.Is6() {
				t = AAAA
			}
			a.Extra = append(a.Extra, Record{Name: target, Type: t, Addr: addr})
		}
	}
	return a
}

// pod answers a-b-c-d.namespace.pod.<zone> with the address that the name says,
// whether there is such a Pod or not (CoreDNS's mode insecure, kubeadm's
// default), in namespaces that the zone knows.
func (z *Zone) pod(name string, rest []string, qtype Type) Answer {
	switch {
	case len(rest) == 0:
		return noData
	case !z.hasSpace(rest[0]):
		return none
	case len(rest) == 1:
		return noData
	case len(rest) > 2:
		return none
	}
	addr, ok := undashed(rest[1])
	if !ok {
		return none
	}
	return addresses(name, []netip.Addr{addr}, qtype)
}

func undashed(label string) (netip.Addr, bool) {
	if strings.Count(label, "-") == 3 && !strings.Contains(label, "--") {
		if a, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ".")); err == nil {
			return a, true
		}
	}
	a, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ":"))
	return a, err == nil
}

// Reverse answers a PTR question for an address that a Service has. It says
// Exists false for an address that none has.
func (z *Zone) Reverse(name string, addr netip.Addr, qtype Type) Answer {
	names := z.reverse[addr]
	if len(names) == 0 {
		return none
	}
	if qtype != PTR {
		return noData
	}
	a := Answer{Exists: true}
	for _, target := range slices.Sorted(maps.Values(names)) {
		a.Records = append(a.Records, Record{Name: name, Type: PTR, Target: target})
	}
	return a
}

// ReverseAddr reads the address of a reverse name (in-addr.arpa, ip6.arpa). Ok
// is false for what is not a whole address.
func ReverseAddr(name string) (addr netip.Addr, ok bool) {
	if rest, found := strings.CutSuffix(name, ".in-addr.arpa."); found {
		labels := strings.Split(rest, ".")
		slices.Reverse(labels)
		a, err := netip.ParseAddr(strings.Join(labels, "."))
		return a, err == nil && a.Is4()
	}
	rest, found := strings.CutSuffix(name, ".ip6.arpa.")
	if !found {
		return netip.Addr{}, false
	}
	nibbles := strings.Split(rest, ".")
	if len(nibbles) != 32 {
		return netip.Addr{}, false
	}
	slices.Reverse(nibbles)
	var b strings.Builder
	for i, n := range nibbles {
		if len(n) != 1 {
			return netip.Addr{}, false
		}
		if i > 0 && i%4 == 0 {
			b.WriteByte(':')
		}
		b.WriteString(n)
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil && a.Is6()
}
