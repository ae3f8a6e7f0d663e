package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// NodePortAddresses says which of the node's own addresses offer node ports:
// --nodeport-addresses. The zero value is Primary.
type NodePortAddresses struct {
	// Primary stands for the addresses of the Node object, Localhost for the
	// loopback addresses, All for every address that the node has.
	Primary, Localhost, All bool
	// Ranges hold the addresses that offer them besides.
	Ranges []netip.Prefix
}

// ParseNodePortAddresses reads a list of ranges and of the words primary,
// localhost and all.
func ParseNodePortAddresses(words []string) (NodePortAddresses, error) {
	var n NodePortAddresses
	for _, w := range words {
		switch w = strings.TrimSpace(w); w {
		case "primary":
			n.Primary = true
		case "localhost":
			n.Localhost = true
		case "all":
			n.All = true
		default:
			r, err := netip.ParsePrefix(w)
			if err != nil {
				return n, fmt.Errorf("%q is no range such as 10.0.0.0/8 and none of primary, localhost and all", w)
			}
			n.Ranges = append(n.Ranges, r.Masked())
		}
	}
	if len(words) == 0 {
		n.Primary = true
	}
	return n, nil
}

// Loopback says whether node ports are to be had on 127.0.0.1 and ::1: only when
// the list asks for them by name, not because a wider range holds them.
func (n NodePortAddresses) Loopback() bool {
	return n.Localhost || slices.ContainsFunc(n.Ranges, func(r netip.Prefix) bool { return r.Addr().IsLoopback() })
}

// of picks the addresses that offer node ports from those that the node has.
// primary are the Node object's. As with kube-proxy, a family for which the list
// says nothing offers them everywhere.
func (n NodePortAddresses) of(primary, have []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, v4 := range []bool{true, false} {
		var ranges []netip.Prefix
		for _, r := range n.Ranges {
			if r.Addr().Is4() == v4 {
				ranges = append(ranges, r)
			}
		}
		if n.Primary || n.zero() {
			for _, a := range primary {
				if a.Is4() == v4 {
					ranges = append(ranges, netip.PrefixFrom(a, a.BitLen()))
				}
			}
		}
		all := n.All || len(ranges) == 0 && !n.Localhost
		for _, a := range have {
			if a.Is4() != v4 || a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() || slices.Contains(out, a) {
				continue
			}
			within := slices.ContainsFunc(ranges, func(r netip.Prefix) bool {
				// An address of one link only is offered when it is asked for.
				return r.Contains(a) && (r.Bits() > 0 || !a.IsLinkLocalUnicast())
			})
			if within || all && !a.IsLinkLocalUnicast() {
				out = append(out, a)
			}
		}
	}
	return out
}

func (n NodePortAddresses) zero() bool {
	return !n.Primary && !n.Localhost && !n.All && len(n.Ranges) == 0
}
