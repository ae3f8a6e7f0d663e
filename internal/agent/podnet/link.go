package podnet

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/lab"
)

// The gateways of every Pod. No link has these addresses: the Pod's neighbour
// entries lead to the node's end of the veth.
var (
	gateway4 = netip.MustParseAddr("169.254.1.1")
	gateway6 = netip.MustParseAddr("fe80::1")
)

// nodeMAC is the hardware address of the node's end of every veth. Nobody else
// is on that link.
var nodeMAC = net.HardwareAddr{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}

// protocol marks our routes, so that they are told from others' after a restart.
const protocol = 118

// linkName is the name of the node's end of a Pod's veth.
func linkName(uid string) string {
	return fmt.Sprintf("vd%x", sha256.Sum256([]byte(uid)))[:13]
}

func podMAC(uid string) net.HardwareAddr {
	h := sha256.Sum256([]byte(uid))
	return net.HardwareAddr{0x0a, 0x58, h[0], h[1], h[2], h[3]}
}

// sysctl sets one, unless the kernel lacks it (a kernel without IPv6).
func sysctl(ns *lab.Namespace, key, value string) error {
	if err := ns.Sysctl(key, value); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (n *Network) prepareNode() error {
	for _, s := range [][2]string{
		{"net.ipv4.ip_forward", "1"},
		{"net.ipv6.conf.all.forwarding", "1"},
		{"net.ipv4.conf.all.rp_filter", "0"},
		{"net.ipv4.conf.default.rp_filter", "0"},
		{"net.ipv4.conf.all.send_redirects", "0"},
		{"net.ipv4.conf.default.send_redirects", "0"},
		{"net.ipv6.conf.default.accept_ra", "0"},
		{"net.ipv6.conf.default.accept_dad", "0"},
	} {
		if err := sysctl(n.cfg.Node, s[0], s[1]); err != nil {
			return err
		}
	}
	h, err := n.cfg.Node.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	for _, c := range n.pool.cidrs {
		r := &netlink.Route{Dst: ipNet(c), Type: unix.RTN_UNREACHABLE, Protocol: protocol}
		if err := h.RouteReplace(r); err != nil {
			return fmt.Errorf("refuse the free addresses of %s: %w", c, err)
		}
	}
	return nil
}

// connect makes what is missing of a Pod's network.
func (n *Network) connect(a attachment, pod *lab.Namespace) error {
	h, err := n.cfg.Node.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(a.Link)
	if err != nil {
		if !errors.As(err, new(netlink.LinkNotFoundError)) {
			return fmt.Errorf("find link %s: %w", a.Link, err)
		}
		if err := n.addVeth(h, a, pod); err != nil {
			return err
		}
		if link, err = h.LinkByName(a.Link); err != nil {
			return fmt.Errorf("find link %s: %w", a.Link, err)
		}
	}
	if err := n.preparePod(a, pod); err != nil {
		return err
	}
	return n.routeToPod(h, a, link)
}

func (n *Network) addVeth(h *netlink.Handle, a attachment, pod *lab.Namespace) error {
	// These hold for the interface from its first moment.
	for _, s := range [][2]string{{"net.ipv6.conf.default.accept_dad", "0"}, {"net.ipv6.conf.default.accept_ra", "0"}} {
		if err := sysctl(pod, s[0], s[1]); err != nil {
			return err
		}
	}
	veth := &netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: a.Link, MTU: n.cfg.MTU, HardwareAddr: nodeMAC},
		PeerName:         "eth0",
		PeerHardwareAddr: podMAC(a.UID),
		PeerNamespace:    netlink.NsFd(int(pod.File().Fd())),
		PeerMTU:          uint32(n.cfg.MTU),
	}
	if err := h.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth %s: %w", a.Link, err)
	}
	return nil
}

// preparePod sets addresses, neighbours and routes inside the Pod.
func (n *Network) preparePod(a attachment, pod *lab.Namespace) error {
	h, err := pod.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the pod's loopback: %w", err)
	}
	eth, err := h.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find the pod's eth0: %w", err)
	}
	for _, l := range []netlink.Link{lo, eth} {
		if err := h.LinkSetUp(l); err != nil {
			return fmt.Errorf("bring the pod's %s up: %w", l.Attrs().Name, err)
		}
	}
	index := eth.Attrs().Index
	for _, addr := range a.Addresses {
		ip := &netlink.Addr{IPNet: hostNet(addr)}
		gateway, all := gateway4, netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if addr.Is6() {
			ip.Flags = unix.IFA_F_NODAD
			gateway, all = gateway6, netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		if err := h.AddrReplace(eth, ip); err != nil {
			return fmt.Errorf("set the pod's address %s: %w", addr, err)
		}
		if err := setNeighbour(h, index, gateway, nodeMAC); err != nil {
			return err
		}
		if addr.Is4() {
			r := &netlink.Route{LinkIndex: index, Dst: hostNet(gateway), Scope: netlink.SCOPE_LINK}
			if err := h.RouteReplace(r); err != nil {
				return fmt.Errorf("route the pod's gateway %s: %w", gateway, err)
			}
		}
		r := &netlink.Route{LinkIndex: index, Dst: ipNet(all), Gw: gateway.AsSlice()}
		if err := h.RouteReplace(r); err != nil {
			return fmt.Errorf("set the pod's default route via %s: %w", gateway, err)
		}
	}
	return nil
}

// routeToPod leads the node's packets to the Pod.
func (n *Network) routeToPod(h *netlink.Handle, a attachment, link netlink.Link) error {
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring link %s up: %w", a.Link, err)
	}
	for _, addr := range a.Addresses {
		if err := setNeighbour(h, link.Attrs().Index, addr, podMAC(a.UID)); err != nil {
			return err
		}
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: hostNet(addr), Protocol: protocol}
		if addr.Is4() {
			r.Scope = netlink.SCOPE_LINK
		}
		for _, own := range n.cfg.NodeIPs {
			if own.Is4() == addr.Is4() {
				r.Src = own.AsSlice()
			}
		}
		if err := h.RouteReplace(r); err != nil {
			return fmt.Errorf("route %s to %s: %w", addr, a.Link, err)
		}
	}
	return nil
}

func (n *Network) disconnect(a attachment) error {
	h, err := n.cfg.Node.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(a.Link)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = h.LinkDel(link) // its routes and neighbours go with it
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove link %s: %w", a.Link, err)
	}
	return nil
}

func setNeighbour(h *netlink.Handle, link int, ip netip.Addr, mac net.HardwareAddr) error {
	family := netlink.FAMILY_V4
	if ip.Is6() {
		family = netlink.FAMILY_V6
	}
	err := h.NeighSet(&netlink.Neigh{
		LinkIndex: link, Family: family, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("set neighbour %s: %w", ip, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func hostNet(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }
