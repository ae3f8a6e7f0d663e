package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/pflag"

	"viaduct.dev/viaduct/internal/cluster/box"
)

// bindSpec makes the flags of a box's settings. Those that a Kubernetes
// component has too are called as there.
func bindSpec(fs *pflag.FlagSet, s *box.Spec) {
	fs.IntVar(&s.Nodes, "nodes", s.Nodes, "number of nodes")
	fs.Uint16Var(&s.APIPort, "api-port", s.APIPort, "port of the API on the host's 127.0.0.1; 0 means 6443 or, where that is taken, the next that is free")
	fs.Var(prefixes{&s.ServiceCIDRs}, "service-cluster-ip-range", "range of cluster IPs, or one of each family (kube-apiserver)")
	fs.Var(portRange{&s.NodePorts}, "service-node-port-range", "range of node ports (kube-apiserver)")
	fs.Var(prefixes{&s.ClusterCIDRs}, "cluster-cidr", "range of Pod addresses, or one of each family (kube-controller-manager)")
	fs.IntVar(&s.NodeCIDRMaskSizeIPv4, "node-cidr-mask-size-ipv4", s.NodeCIDRMaskSizeIPv4, "size of a node's share of the IPv4 Pod range, in bits of prefix (kube-controller-manager)")
	fs.IntVar(&s.NodeCIDRMaskSizeIPv6, "node-cidr-mask-size-ipv6", s.NodeCIDRMaskSizeIPv6, "size of a node's share of the IPv6 Pod range, in bits of prefix (kube-controller-manager)")
	fs.StringVar(&s.Domain, "cluster-domain", s.Domain, "domain of the cluster's names (kubelet)")
	fs.Var(addresses{&s.DNS}, "cluster-dns", "addresses of the cluster's DNS, inside the Service range; default is the tenth of each (kubelet)")
	fs.Var(prefixes{&s.LoadBalancerRanges}, "load-balancer-range", "addresses for Services of type LoadBalancer, inside --node-network and by default a part of it")
	fs.Var(prefixes{&s.NodeNetworks}, "node-network", "the nodes' network, or one of each family")
	fs.StringVar(&s.DNSUpstream, "dns-upstream", s.DNSUpstream, `where other names are looked up: "host" for the host's resolvers (also without a value), or addresses of DNS servers; default is nowhere`)
	fs.Lookup("dns-upstream").NoOptDefVal = box.UpstreamHost
}

// prefixes is a flag of address ranges, comma-separated.
type prefixes struct{ list *[]netip.Prefix }

func (p prefixes) Type() string { return "cidrs" }

func (p prefixes) String() string { return join(p.list) }

func (p prefixes) Set(text string) error {
	var all []netip.Prefix
	for _, s := range strings.Split(text, ",") {
		one, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return fmt.Errorf("%q is no range such as 10.96.0.0/12", s)
		}
		all = append(all, one)
	}
	*p.list = all
	return nil
}

// addresses is a flag of addresses, comma-separated.
type addresses struct{ list *[]netip.Addr }

func (a addresses) Type() string { return "ips" }

func (a addresses) String() string { return join(a.list) }

func (a addresses) Set(text string) error {
	var all []netip.Addr
	for _, s := range strings.Split(text, ",") {
		one, err := netip.ParseAddr(strings.TrimSpace(s))
		if err != nil {
			return fmt.Errorf("%q is no IP address", s)
		}
		all = append(all, one)
	}
	*a.list = all
	return nil
}

// portRange is a flag such as 30000-32767.
type portRange struct{ r *box.PortRange }

func (p portRange) Type() string { return "ports" }

func (p portRange) String() string {
	if p.r == nil {
		return ""
	}
	return p.r.String()
}

func (p portRange) Set(text string) (err error) {
	*p.r, err = box.ParsePortRange(text)
	return err
}

// join writes a list as its flag takes it; pflag also asks the zero value.
func join[T fmt.Stringer](list *[]T) string {
	if list == nil {
		return ""
	}
	var texts []string
	for _, v := range *list {
		texts = append(texts, v.String())
	}
	return strings.Join(texts, ",")
}
