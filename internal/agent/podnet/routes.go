package podnet

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// SetNodes routes other nodes' Pod ranges via those nodes' addresses, and
// forgets the ranges that are not named any more. One that cannot be routed
// keeps no other from it.
func (n *Network) SetNodes(via map[netip.Prefix]netip.Addr) error {
	h, err := n.cfg.Node.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	n.mu.Lock()
	defer n.mu.Unlock()

	// Of our routes, those with a gateway lead to other nodes.
	filter := &netlink.Route{Protocol: protocol, Table: unix.RT_TABLE_MAIN}
	routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list the routes to other nodes: %w", err)
	}
	have := map[netip.Prefix]netip.Addr{}
	var errs []error
	for _, r := range routes {
		gw, ok := netip.AddrFromSlice(r.Gw)
		if !ok || r.Dst == nil {
			continue
		}
		addr, _ := netip.AddrFromSlice(r.Dst.IP)
		ones, _ := r.Dst.Mask.Size()
		to := netip.PrefixFrom(addr.Unmap(), ones)
		if want, ok := via[to]; ok {
			if want == gw.Unmap() {
				have[to] = want
			}
			continue
		}
		if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove the route to %s: %w", to, err))
		}
	}
	for to, gw := range via {
		if have[to] == gw {
			continue
		}
		if err := h.RouteReplace(&netlink.Route{Dst: ipNet(to.Masked()), Gw: gw.AsSlice(), Protocol: protocol}); err != nil {
			errs = append(errs, fmt.Errorf("route %s via %s: %w", to, gw, err))
		}
	}
	return errors.Join(errs...)
}
