package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Handle is a netlink handle of the namespace. The caller closes it.
func (n *Namespace) Handle() (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(n.file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink in %s: %w", n.path, err)
	}
	return h, nil
}

// with runs fn with a netlink handle of the namespace.
func (n *Namespace) with(fn func(h *netlink.Handle) error) error {
	h, err := n.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	return fn(h)
}

// prepare brings the loopback up and turns duplicate address detection off, so
// that an IPv6 address can be used as soon as it is set: in a lab nobody else
// can have it.
func (n *Namespace) prepare() error {
	if err := n.SetUp("lo"); err != nil {
		return err
	}
	for _, which := range []string{"all", "default"} {
		err := n.Sysctl("net.ipv6.conf."+which+".accept_dad", "0")
		if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
			return err
		}
	}
	return nil
}

// SetUp brings a link up.
func (n *Namespace) SetUp(link string) error {
	return n.with(func(h *netlink.Handle) error {
		l, err := h.LinkByName(link)
		if err != nil {
			return fmt.Errorf("find link %s: %w", link, err)
		}
		if err := h.LinkSetUp(l); err != nil {
			return fmt.Errorf("bring link %s up: %w", link, err)
		}
		return nil
	})
}

// AddBridge makes a bridge that is up.
func (n *Namespace) AddBridge(name string) error {
	return n.with(func(h *netlink.Handle) error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
		if err := h.LinkAdd(br); err != nil {
			return fmt.Errorf("add bridge %s: %w", name, err)
		}
		return h.LinkSetUp(br)
	})
}

// Enslave makes a link a port of a bridge.
func (n *Namespace) Enslave(link, bridge string) error {
	return n.with(func(h *netlink.Handle) error {
		l, err := h.LinkByName(link)
		if err != nil {
			return fmt.Errorf("find link %s: %w", link, err)
		}
		br, err := h.LinkByName(bridge)
		if err != nil {
			return fmt.Errorf("find bridge %s: %w", bridge, err)
		}
		if err := h.LinkSetMaster(l, br); err != nil {
			return fmt.Errorf("add %s to bridge %s: %w", link, bridge, err)
		}
		return nil
	})
}

// Connect joins two namespaces by a veth pair, one end in each, both up. It is
// made in a's namespace, never in the caller's.
func Connect(a *Namespace, aLink string, b *Namespace, bLink string) error {
	return a.with(func(h *netlink.Handle) error {
		veth := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: aLink},
			PeerName:      bLink,
			PeerNamespace: netlink.NsFd(int(b.file.Fd())),
		}
		if err := h.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth pair %s, %s: %w", aLink, bLink, err)
		}
		if err := a.SetUp(aLink); err != nil {
			return err
		}
		return b.SetUp(bLink)
	})
}

// AddAddress sets an address with its prefix on a link. One that is there
// already is no error.
func (n *Namespace) AddAddress(link string, p netip.Prefix) error {
	return n.with(func(h *netlink.Handle) error {
		l, err := h.LinkByName(link)
		if err != nil {
			return fmt.Errorf("find link %s: %w", link, err)
		}
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrReplace(l, addr); err != nil {
			return fmt.Errorf("set address %s on %s: %w", p, link, err)
		}
		return nil
	})
}

// AddRoute routes a prefix via a gateway; 0.0.0.0/0 and ::/0 are the default.
func (n *Namespace) AddRoute(to netip.Prefix, via netip.Addr) error {
	return n.with(func(h *netlink.Handle) error {
		if err := h.RouteReplace(&netlink.Route{Dst: ipNet(to), Gw: net.IP(via.AsSlice())}); err != nil {
			return fmt.Errorf("route %s via %s: %w", to, via, err)
		}
		return nil
	})
}

// AddDeviceRoute routes a prefix to a link's own network.
func (n *Namespace) AddDeviceRoute(to netip.Prefix, link string) error {
	return n.with(func(h *netlink.Handle) error {
		l, err := h.LinkByName(link)
		if err != nil {
			return fmt.Errorf("find link %s: %w", link, err)
		}
		r := &netlink.Route{Dst: ipNet(to), LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK}
		if err := h.RouteReplace(r); err != nil {
			return fmt.Errorf("route %s to %s: %w", to, link, err)
		}
		return nil
	})
}

// Sysctl sets a network sysctl of the namespace, such as net.ipv4.ip_forward.
// A link's name in it may not contain a dot.
func (n *Namespace) Sysctl(key, value string) error {
	path := filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/"))
	if !strings.HasPrefix(path, "/proc/sys/net/") {
		return fmt.Errorf("set sysctl %s: only those of the network belong to a namespace", key)
	}
	return n.Do(func() error {
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return fmt.Errorf("set sysctl %s: %w", key, err)
		}
		return nil
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
