package box

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// MaxNodes is how many nodes a box may have: their addresses end in 11 to 250.
const MaxNodes = 240

// Spec is what `viaduct up` was asked for. It is stored, and a cluster that is
// resumed gets the same again. Lists of addresses have the primary family first.
type Spec struct {
	Name  string `json:"name"`
	Nodes int    `json:"nodes"`
	// APIPort is the port of the API on the host's 127.0.0.1; 0 asks for 6443
	// or, where that is taken, the next that is free.
	APIPort uint16 `json:"apiPort"`

	ServiceCIDRs         []netip.Prefix `json:"serviceCIDRs"`
	ClusterCIDRs         []netip.Prefix `json:"clusterCIDRs"`
	NodeCIDRMaskSizeIPv4 int            `json:"nodeCIDRMaskSizeIPv4"`
	NodeCIDRMaskSizeIPv6 int            `json:"nodeCIDRMaskSizeIPv6"`
	Domain               string         `json:"domain"`
	// DNS are the addresses of the cluster's DNS; empty means the tenth of each
	// Service range.
	DNS                []netip.Addr   `json:"dns,omitempty"`
	NodePorts          PortRange      `json:"nodePorts"`
	LoadBalancerRanges []netip.Prefix `json:"loadBalancerRanges"`
	NodeNetworks       []netip.Prefix `json:"nodeNetworks"`
	// DNSUpstream says where names outside the domain are looked up: nowhere
	// when empty, with the host's resolvers when "host", else at these servers.
	DNSUpstream string `json:"dnsUpstream,omitempty"`
}

// PortRange is a range of ports, both ends included.
type PortRange struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

// String is the range as kube-apiserver writes it, such as 30000-32767.
func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// ParsePortRange reads first-last.
func ParsePortRange(s string) (PortRange, error) {
	first, last, ok := strings.Cut(s, "-")
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := strconv.ParseUint(last, 10, 16)
	if !ok || errA != nil || errB != nil || a == 0 || b < a {
		return PortRange{}, fmt.Errorf("%q is no port range such as 30000-32767", s)
	}
	return PortRange{uint16(a), uint16(b)}, nil
}

// Default is a dual-stack box with one node.
func Default(name string) Spec {
	p := netip.MustParsePrefix
	s := Spec{
		Name:                 name,
		Nodes:                1,
		ServiceCIDRs:         []netip.Prefix{p("10.96.0.0/12"), p("fd00:10:96::/112")},
		ClusterCIDRs:         []netip.Prefix{p("10.244.0.0/16"), p("fd00:10:244::/56")},
		NodeCIDRMaskSizeIPv4: 24,
		NodeCIDRMaskSizeIPv6: 64,
		Domain:               "cluster.local",
		NodePorts:            PortRange{30000, 32767},
		NodeNetworks:         []netip.Prefix{p("172.20.0.0/16"), p("fd00:172:20::/64")},
	}
	s.LoadBalancerRanges = s.LoadBalancerShare()
	return s
}

// LoadBalancerShare is the part of the nodes' networks that Services of type
// LoadBalancer get where nobody says otherwise: from 255 x 256 on 256 addresses
// or, in a smaller network, its upper half.
func (s Spec) LoadBalancerShare() []netip.Prefix {
	var share []netip.Prefix
	for _, p := range s.NodeNetworks {
		a, last := p.Addr().AsSlice(), p.Addr().BitLen()/8-1
		switch free := p.Addr().BitLen() - p.Bits(); {
		case free == 0: // Validate refuses it
			share = append(share, p)
		case free < 16:
			half := p.Bits() + 1 // the bit that tells its upper half
			a[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
			upper, _ := netip.AddrFromSlice(a)
			share = append(share, netip.PrefixFrom(upper, half))
		default:
			a[last-1] = 0xff
			first, _ := netip.AddrFromSlice(a)
			share = append(share, netip.PrefixFrom(first, first.BitLen()-8))
		}
	}
	return share
}

var (
	label  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	domain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
)

// ValidateName says what is wrong with a cluster's name. It becomes part of
// file names and cgroups, and of names that must tell clusters apart.
func ValidateName(name string) error {
	if len(name) > 40 || !label.MatchString(name) {
		return fmt.Errorf("cluster name %q: must be 1 to 40 lower-case letters, digits and '-', and begin and end with a letter or digit", name)
	}
	return nil
}

// Validate says everything that is wrong with the settings, by flag.
func (s Spec) Validate() error {
	var errs []error
	bad := func(flag, format string, args ...any) {
		errs = append(errs, fmt.Errorf("--%s: %s", flag, fmt.Sprintf(format, args...)))
	}
	if err := ValidateName(s.Name); err != nil {
		errs = append(errs, err)
	}
	if s.Nodes < 1 || s.Nodes > MaxNodes {
		bad("nodes", "must be 1 to %d, not %d", MaxNodes, s.Nodes)
	}
	families("service-cluster-ip-range", s.ServiceCIDRs, bad)
	families("cluster-cidr", s.ClusterCIDRs, bad)
	families("load-balancer-range", s.LoadBalancerRanges, bad)
	families("node-network", s.NodeNetworks, bad)
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, p := range s.ServiceCIDRs {
		if free := p.Addr().BitLen() - p.Bits(); free < 4 || free > 20 {
			bad("service-cluster-ip-range", "%s must leave 4 to 20 bits to addresses", p)
		}
	}
	for i, p := range s.ClusterCIDRs {
		flag, size := "node-cidr-mask-size-ipv4", s.NodeCIDRMaskSizes()[i]
		if p.Addr().Is6() {
			flag = "node-cidr-mask-size-ipv6"
		}
		switch bits := size - p.Bits(); {
		case bits < 0 || size > p.Addr().BitLen()-2:
			bad(flag, "/%d does not fit into %s", size, p)
		case bits < 16 && 1<<bits < s.Nodes:
			bad(flag, "%s has only %d networks of /%d for %d nodes", p, 1<<bits, size, s.Nodes)
		case bits > 16:
			bad(flag, "%s holds more than 65536 networks of /%d", p, size)
		}
	}
	for _, p := range s.NodeNetworks {
		if p.Addr().BitLen()-p.Bits() < 8 {
			bad("node-network", "%s is too small: at least 8 bits are for the nodes", p)
		}
	}
	for _, p := range s.NodeNetworks {
		for _, q := range append(append([]netip.Prefix{}, s.ServiceCIDRs...), s.ClusterCIDRs...) {
			if p.Overlaps(q) {
				bad("node-network", "%s overlaps %s", p, q)
			}
		}
	}
	for _, p := range s.LoadBalancerRanges {
		inside := func(n netip.Prefix) bool { return n.Bits() <= p.Bits() && n.Contains(p.Addr()) }
		if !slices.ContainsFunc(s.NodeNetworks, inside) {
			bad("load-balancer-range", "%s is not inside --node-network, %s", p, list(s.NodeNetworks))
			continue
		}
		for _, own := range append(s.NodeAddresses(1), s.NodeAddresses(s.Nodes)...) {
			if p.Contains(own) {
				bad("load-balancer-range", "%s holds the node's address %s", p, own)
			}
		}
		for _, gateway := range s.GatewayPrefixes() {
			if p.Contains(gateway.Addr()) {
				bad("load-balancer-range", "%s holds the host's address %s", p, gateway.Addr())
			}
		}
	}
	for _, p := range s.ServiceCIDRs {
		same := func(q netip.Prefix) bool { return q.Addr().Is4() == p.Addr().Is4() }
		if !slices.ContainsFunc(s.ClusterCIDRs, same) {
			bad("cluster-cidr", "%s lacks the family of the Services, %s", list(s.ClusterCIDRs), p)
		}
		if !slices.ContainsFunc(s.NodeNetworks, same) {
			bad("node-network", "%s lacks the family of the Services, %s", list(s.NodeNetworks), p)
		}
	}
	for _, p := range s.ServiceCIDRs {
		for _, q := range s.ClusterCIDRs {
			if p.Overlaps(q) {
				bad("service-cluster-ip-range", "%s overlaps the cluster CIDR %s", p, q)
			}
		}
	}
	for _, a := range s.DNS {
		if !contains(s.ServiceCIDRs, a) {
			bad("cluster-dns", "%s is in no Service range, %s", a, list(s.ServiceCIDRs))
		} else if slices.ContainsFunc(s.ServiceCIDRs, func(p netip.Prefix) bool { return p.Addr() == a || p.Addr().Next() == a }) {
			bad("cluster-dns", "%s is that of the kubernetes Service, or none", a)
		}
	}
	if len(s.Domain) > 200 || !domain.MatchString(s.Domain) {
		bad("cluster-domain", "%q is no domain such as cluster.local", s.Domain)
	}
	if s.DNSUpstream != "" && s.DNSUpstream != UpstreamHost {
		if _, err := ParseUpstreams(s.DNSUpstream); err != nil {
			bad("dns-upstream", "%v", err)
		}
	}
	return errors.Join(errs...)
}

// families refuses what is neither one range nor one of each family.
func families(flag string, ranges []netip.Prefix, bad func(string, string, ...any)) {
	switch {
	case len(ranges) == 0:
		bad(flag, "must not be empty")
	case len(ranges) > 2:
		bad(flag, "must be one range, or one of each family")
	case len(ranges) == 2 && ranges[0].Addr().Is4() == ranges[1].Addr().Is4():
		bad(flag, "%s and %s are of one family", ranges[0], ranges[1])
	}
	for _, p := range ranges {
		if p != p.Masked() {
			bad(flag, "%s has bits set behind its prefix; did you mean %s?", p, p.Masked())
		}
		if a := p.Addr(); a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
			bad(flag, "%s is no range for hosts (loopback, link-local, multicast or unspecified)", p)
		}
	}
}

// list is ranges as a flag takes them.
func list(ranges []netip.Prefix) string {
	var texts []string
	for _, p := range ranges {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ",")
}

func contains(ranges []netip.Prefix, a netip.Addr) bool {
	for _, p := range ranges {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
