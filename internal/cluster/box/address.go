package box

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// APIPort is the port of the API inside a box, on its first node.
const APIPort = 6443

// AgentPort is where a node's agent serves logs and exec.
const AgentPort = 10250

// NodeName is the name of the i-th node, counted from 1.
func NodeName(i int) string { return fmt.Sprintf("node-%d", i) }

// NodeNumber is the inverse of NodeName.
func NodeNumber(name string) (int, error) {
	text, ok := strings.CutPrefix(name, "node-")
	i, err := strconv.Atoi(text)
	if !ok || err != nil || i < 1 || NodeName(i) != name {
		return 0, fmt.Errorf("%q is no node's name; they are node-1, node-2 and so on", name)
	}
	return i, nil
}

// NodeNames are the names of all nodes.
func (s Spec) NodeNames() []string {
	var names []string
	for i := 1; i <= s.Nodes; i++ {
		names = append(names, NodeName(i))
	}
	return names
}

// NodePrefixes are the addresses of the i-th node with the network's length.
// Its last group reads the same in both families: 172.20.0.11, fd00:172:20::11.
func (s Spec) NodePrefixes(i int) []netip.Prefix { return s.onNetwork(10 + i) }

// NodeAddresses are the addresses of the i-th node.
func (s Spec) NodeAddresses(i int) []netip.Addr {
	var addrs []netip.Addr
	for _, p := range s.NodePrefixes(i) {
		addrs = append(addrs, p.Addr())
	}
	return addrs
}

// GatewayPrefixes are the fabric's own addresses on the nodes' network.
func (s Spec) GatewayPrefixes() []netip.Prefix { return s.onNetwork(1) }

func (s Spec) onNetwork(n int) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range s.NodeNetworks {
		all = append(all, netip.PrefixFrom(host(p, n), p.Bits()))
	}
	return all
}

// host is the address that ends in n, as a reader sees it: in hexadecimal
// groups the digits are n's decimal ones.
func host(p netip.Prefix, n int) netip.Addr {
	if p.Addr().Is6() {
		hex, _ := strconv.ParseUint(strconv.Itoa(n), 16, 16)
		n = int(hex)
	}
	return nth(p, n)
}

// nth is the n-th address of a range, for n below 65536.
func nth(p netip.Prefix, n int) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := len(b) - 1; n > 0 && i >= 0; i-- {
		n += int(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// APIAddress is where the API is, inside the box.
func (s Spec) APIAddress() netip.AddrPort {
	return netip.AddrPortFrom(s.NodeAddresses(1)[0], APIPort)
}

// DNSAddresses are the addresses of the cluster's DNS.
func (s Spec) DNSAddresses() []netip.Addr {
	if len(s.DNS) > 0 {
		return s.DNS
	}
	var addrs []netip.Addr
	for _, p := range s.ServiceCIDRs {
		addrs = append(addrs, nth(p, 10))
	}
	return addrs
}

// SearchDomains are those of a process in the namespace default.
func (s Spec) SearchDomains() []string {
	return []string{"default.svc." + s.Domain, "svc." + s.Domain, s.Domain}
}

// NodeCIDRMaskSizes are the prefix lengths of a node's part of each cluster
// CIDR.
func (s Spec) NodeCIDRMaskSizes() []int {
	var sizes []int
	for _, p := range s.ClusterCIDRs {
		if p.Addr().Is6() {
			sizes = append(sizes, s.NodeCIDRMaskSizeIPv6)
		} else {
			sizes = append(sizes, s.NodeCIDRMaskSizeIPv4)
		}
	}
	return sizes
}

// FabricNamespace is the name of the namespace that joins the nodes of a
// cluster.
func FabricNamespace(cluster string) string { return "viaduct-" + cluster + "-fabric" }

// FabricOf is the cluster whose namespaces such a name joins, if it is one.
func FabricOf(namespace string) (cluster string, ok bool) {
	name, isOurs := strings.CutPrefix(namespace, "viaduct-")
	cluster, isFabric := strings.CutSuffix(name, "-fabric")
	return cluster, isOurs && isFabric && ValidateName(cluster) == nil
}

// NodeNamespace is the name of a node's namespace.
func NodeNamespace(cluster, node string) string { return "viaduct-" + cluster + "-" + node }

// OwnsNamespace says whether a namespace's name is one of that cluster's. A
// prefix would not do: one cluster's name may begin another's.
func OwnsNamespace(cluster, name string) bool {
	return regexp.MustCompile(`^viaduct-` + regexp.QuoteMeta(cluster) + `-(fabric|node-[0-9]+)$`).MatchString(name)
}

// CgroupPath is a cluster's cgroup in every hierarchy.
func CgroupPath(cluster string) string { return "/viaduct/" + cluster }
