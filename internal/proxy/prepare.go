package proxy

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// protocol marks our routes, so that they are told from others'.
const protocol = 118

// initialNamespace says whether this thread's network is the machine's own:
// only that has this sysctl.
func initialNamespace() bool {
	_, err := os.Stat("/proc/sys/net/core/netdev_budget")
	return err == nil
}

// prepare lets the node's namespace forward, and gives cluster IPs a route where
// they have none: the node's own connections are translated after they were
// routed.
func prepare(services []netip.Prefix, own []netip.Addr) error {
	for path, value := range map[string]string{
		"/proc/sys/net/ipv4/ip_forward":          "1",
		"/proc/sys/net/ipv6/conf/all/forwarding": "1",
		// Packets out of a connection's window are not INVALID: they would pass
		// untranslated and reset the connection.
		"/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal": "1",
	} {
		if have, err := os.ReadFile(path); err == nil && len(have) > 0 && string(have[:1]) == value {
			continue
		}
		if err := os.WriteFile(path, []byte(value), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set %s: %w", path, err)
		}
	}
	// A packet that goes out where it came in is no reason to tell its sender of
	// a shorter way: the Service is the way.
	links, err := filepath.Glob("/proc/sys/net/ipv4/conf/*/send_redirects")
	if err != nil {
		return err
	}
	for _, path := range links {
		if err := os.WriteFile(path, []byte("0"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set %s: %w", path, err)
		}
	}
	for _, r := range services {
		if err := route(r, own); err != nil {
			return fmt.Errorf("route %s: %w", r, err)
		}
	}
	return nil
}

// route leads a range to the link of the node's own address, unless there is a
// way already. Nothing ever leaves there: what no Service takes is refused.
func route(r netip.Prefix, own []netip.Addr) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	if _, err := h.RouteGet(r.Masked().Addr().Next().AsSlice()); err == nil {
		return nil
	}
	for _, a := range own {
		if a.Is4() != r.Addr().Is4() {
			continue
		}
		family := netlink.FAMILY_V4
		if a.Is6() {
			family = netlink.FAMILY_V6
		}
		all, err := h.AddrList(nil, family)
		if err != nil {
			return err
		}
		for _, on := range all {
			if !on.IP.Equal(a.AsSlice()) {
				continue
			}
			dst := &net.IPNet{IP: r.Masked().Addr().AsSlice(), Mask: net.CIDRMask(r.Bits(), r.Addr().BitLen())}
			return h.RouteReplace(&netlink.Route{LinkIndex: on.LinkIndex, Dst: dst, Src: a.AsSlice(), Protocol: protocol})
		}
	}
	return nil // no way for the node itself; Pods do not need it
}
