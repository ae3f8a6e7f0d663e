// Package labnet is the network that a proxy is tried in: a node with one Pod, a
// place where all endpoints are, and one for the API, with no way out.
//
//	API ---- Node ---- Backends     every endpoint's address is local there
//	           `------ Pod          a client whose packets the node forwards
//
// The one idea: API and Backends stay, and Node and Pod can be made anew, so that
// the next proxy begins with an empty kernel.
//
//	n, err := labnet.New()
//	err = n.Fresh()
//	err = n.Node.Start(exec.Command("viaduct", "proxy", ...))
//	n.Drop(); n.Close()
package labnet

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/lab"
)

// NodeName is the node's name in the API.
const NodeName = "node-1"

// Both families: IPv4 first.
var (
	ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:10:96::/112")}
	// PodCIDRs hold all Pods; those of this node are in LocalCIDRs, and every
	// address of BackendCIDRs is an endpoint that can be reached.
	PodCIDRs     = []netip.Prefix{netip.MustParsePrefix("10.128.0.0/9"), netip.MustParsePrefix("fd00:10:128::/48")}
	LocalCIDRs   = []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:128:1::/64")}
	BackendCIDRs = []netip.Prefix{netip.MustParsePrefix("10.128.0.0/10"), netip.MustParsePrefix("fd00:10:128:8000::/49")}
	APIAddrs     = []netip.Addr{netip.MustParseAddr("172.31.0.1"), netip.MustParseAddr("fd00:172:31::1")}
	NodeAddrs    = []netip.Addr{netip.MustParseAddr("172.31.0.2"), netip.MustParseAddr("fd00:172:31::2")}
	PodAddrs     = []netip.Addr{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00:10:128:1::2")}

	podGateways = []netip.Addr{netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("fd00:10:128:1::1")}
	nodeToFar   = []netip.Addr{netip.MustParseAddr("172.30.0.1"), netip.MustParseAddr("fd00:172:30::1")}
	farAddrs    = []netip.Addr{netip.MustParseAddr("172.30.0.2"), netip.MustParseAddr("fd00:172:30::2")}
	anywhere    = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
)

// Network is the namespaces of the drawing.
type Network struct {
	API, Backends *lab.Namespace
	Node, Pod     *lab.Namespace // nil but between Fresh and Drop
}

// New makes the part that stays.
func New() (*Network, error) {
	n := &Network{}
	var err error
	if n.API, err = lab.New(); err != nil {
		return nil, err
	}
	if n.Backends, err = lab.New(); err != nil {
		n.API.Close()
		return nil, err
	}
	if err := n.holdBackends(); err != nil {
		n.Close()
		return nil, err
	}
	// The API has its addresses also while no node is there.
	for _, a := range APIAddrs {
		if err := n.API.AddAddress("lo", netip.PrefixFrom(a, a.BitLen())); err != nil {
			n.Close()
			return nil, err
		}
	}
	return n, nil
}

func (n *Network) holdBackends() error {
	h, err := n.Backends.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	for i := range BackendCIDRs {
		routes := []*netlink.Route{
			{LinkIndex: lo.Attrs().Index, Dst: ipNet(BackendCIDRs[i]), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST},
			// A packet to a cluster IP that no proxy has translated ends here, in silence.
			{Dst: ipNet(ServiceCIDRs[i]), Type: unix.RTN_BLACKHOLE},
		}
		for _, r := range routes {
			if err := h.RouteAdd(r); err != nil {
				return fmt.Errorf("route %s: %w", r.Dst, err)
			}
		}
	}
	return nil
}

// Fresh makes a node and a Pod that nothing has been done to.
func (n *Network) Fresh() error {
	n.Drop()
	var err error
	if n.Node, err = lab.New(); err != nil {
		return err
	}
	if n.Pod, err = lab.New(); err != nil {
		n.Node.Close()
		n.Node = nil
		return err
	}
	sysctls := []struct {
		on         *lab.Namespace
		key, value string
	}{
		{n.Node, "net.ipv4.conf.all.rp_filter", "0"},
		{n.Node, "net.ipv4.conf.default.rp_filter", "0"},
		{n.Backends, "net.ipv4.conf.all.rp_filter", "0"},
		{n.Backends, "net.ipv4.conf.default.rp_filter", "0"},
		{n.Node, "net.ipv4.ip_forward", "1"},
		{n.Node, "net.ipv6.conf.all.forwarding", "1"},
	}
	for _, s := range sysctls {
		if err := s.on.Sysctl(s.key, s.value); err != nil {
			return err
		}
	}
	cables := []struct {
		link        string
		there       *lab.Namespace
		node, other []netip.Addr
		bits        [2]int
	}{
		{"eth0", n.API, NodeAddrs, APIAddrs, [2]int{24, 64}},
		{"far0", n.Backends, nodeToFar, farAddrs, [2]int{30, 64}},
		{"pod0", n.Pod, podGateways, PodAddrs, [2]int{24, 64}},
	}
	for _, c := range cables {
		if err := lab.Connect(n.Node, c.link, c.there, "eth0"); err != nil {
			return err
		}
		for i, bits := range c.bits {
			if err := n.Node.AddAddress(c.link, netip.PrefixFrom(c.node[i], bits)); err != nil {
				return err
			}
			if err := c.there.AddAddress("eth0", netip.PrefixFrom(c.other[i], bits)); err != nil {
				return err
			}
		}
	}
	return n.route()
}

func (n *Network) route() error {
	for i := range anywhere {
		routes := []struct {
			on  *lab.Namespace
			to  netip.Prefix
			via netip.Addr
		}{
			{n.Node, BackendCIDRs[i], farAddrs[i]},
			{n.Node, ServiceCIDRs[i], farAddrs[i]},
			{n.Pod, anywhere[i], podGateways[i]},
			{n.Backends, LocalCIDRs[i], nodeToFar[i]},
			{n.Backends, netip.PrefixFrom(NodeAddrs[i], [2]int{24, 64}[i]).Masked(), nodeToFar[i]},
			{n.API, anywhere[i], NodeAddrs[i]},
		}
		for _, r := range routes {
			if err := r.on.AddRoute(r.to, r.via); err != nil {
				return err
			}
		}
	}
	return nil
}

// Drop lets node and Pod go, with all their rules and cables.
func (n *Network) Drop() {
	if n.Node == nil {
		return
	}
	for _, ns := range []*lab.Namespace{n.API, n.Backends} {
		// The cable would go only when the kernel gets round to the namespace: the
		// next one must not meet it.
		if h, err := ns.Handle(); err == nil {
			if l, err := h.LinkByName("eth0"); err == nil {
				_ = h.LinkDel(l)
			}
			h.Close()
		}
	}
	n.Node.Close()
	n.Pod.Close()
	n.Node, n.Pod = nil, nil
}

// Close lets everything go.
func (n *Network) Close() {
	n.Drop()
	n.API.Close()
	n.Backends.Close()
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
