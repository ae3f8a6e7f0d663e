package nftables

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	"viaduct.dev/viaduct/internal/servicetable"
)

// Node is what the rules must know of the node and the cluster. SetNode changes it.
type Node struct {
	// NodePortAddresses are the addresses that offer node ports.
	NodePortAddresses []netip.Addr
	// Masquerade is the address, one of each family, by which callers are hidden
	// whose answers must come back through this node. Without one the kernel
	// chooses an address of the interface that the packet leaves by.
	Masquerade []netip.Addr
	// LocalCIDRs are where the Pods are that LocalTraffic tells of; without any,
	// nobody is hidden from the backends of a cluster IP.
	LocalCIDRs []netip.Prefix
	// ServiceCIDRs are where cluster IPs are: what no Service has is refused there.
	ServiceCIDRs []netip.Prefix
}

// SetNode programs what is different of the node.
func (s *Sink) SetNode(node Node) error {
	old := s.node
	s.node = node
	var errs []error
	for _, f := range s.families {
		if f.fresh || f.stale != nil {
			continue // Apply does it
		}
		errs = append(errs, s.program(f, difference(old.elements(f), node.elements(f))))
	}
	return errors.Join(errs...)
}

// difference is what makes one list of elements another.
func difference(before, after []element) []change {
	var changes []change
	for _, e := range before {
		if !slices.Contains(after, e) {
			changes = append(changes, change{element: e, del: true})
		}
	}
	for _, e := range after {
		if !slices.Contains(before, e) {
			changes = append(changes, change{element: e, add: true})
		}
	}
	return changes
}

// elements are those of a family that tell of the node and the cluster.
func (n Node) elements(f *programmed) []element {
	var all []element
	add := func(e element) {
		if !slices.Contains(all, e) {
			all = append(all, e)
		}
	}
	for _, a := range n.NodePortAddresses {
		if a.Is6() == f.v6 {
			add(element{set: "node_ips", at: at{key: string(a.AsSlice())}})
		}
	}
	inside := ofFamily(n.LocalCIDRs, f.v6)
	if len(inside) == 0 {
		everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if f.v6 {
			everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		inside = []netip.Prefix{everywhere}
	}
	for set, list := range map[string][]netip.Prefix{"local_cidrs": ofFamily(n.LocalCIDRs, f.v6), "inside": inside, "svc_cidrs": ofFamily(n.ServiceCIDRs, f.v6)} {
		for _, p := range list {
			add(element{set: set, at: at{key: string(p.Addr().AsSlice())}})
			if end := last(p).Next(); end.IsValid() {
				add(element{set: set, at: at{key: string(end.AsSlice()), end: true}})
			}
		}
	}
	for _, a := range n.Masquerade {
		if a.Is6() == f.v6 {
			for _, p := range []servicetable.Protocol{servicetable.TCP, servicetable.UDP, servicetable.SCTP} {
				add(element{set: "snat_to", at: at{key: string([]byte{byte(p)})}, data: string(a.AsSlice())})
			}
		}
	}
	slices.SortFunc(all, func(a, b element) int { return strings.Compare(a.set+a.key, b.set+b.key) })
	return all
}

// ofFamily are the ranges of a family; of those one of which holds the other, the
// wider.
func ofFamily(all []netip.Prefix, v6 bool) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range all {
		if p.Addr().Is6() != v6 {
			continue
		}
		p = p.Masked()
		if slices.ContainsFunc(out, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }) {
			continue
		}
		out = append(slices.DeleteFunc(out, func(q netip.Prefix) bool { return p.Contains(q.Addr()) }), p)
	}
	return out
}

// last is the last address of a range.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
