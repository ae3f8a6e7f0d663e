package proxy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addresses follows which addresses the interfaces of a network namespace have:
// that of the thread which calls open. It belongs to one goroutine.
type addresses struct {
	updates chan netlink.AddrUpdate
	done    chan struct{}
	have    map[address]struct{}
}

// address is one interface's; the same one may be on several.
type address struct {
	addr netip.Addr
	link int
}

// open begins to follow, or begins anew after what was told has been missed.
func (a *addresses) open() error {
	a.close()
	a.updates, a.done, a.have = make(chan netlink.AddrUpdate, 64), make(chan struct{}), map[address]struct{}{}
	// Told first, read then: what happens between is not missed.
	if err := netlink.AddrSubscribeWithOptions(a.updates, a.done, netlink.AddrSubscribeOptions{}); err != nil {
		return fmt.Errorf("follow the node's addresses: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("read the node's addresses: %w", err)
	}
	defer h.Close()
	all, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("read the node's addresses: %w", err)
	}
	for _, one := range all {
		if ip, ok := netip.AddrFromSlice(one.IP); ok {
			a.have[address{ip.Unmap(), one.LinkIndex}] = struct{}{}
		}
	}
	return nil
}

// take takes in one update and says whether it matters.
func (a *addresses) take(u netlink.AddrUpdate) bool {
	ip, ok := netip.AddrFromSlice(u.LinkAddress.IP)
	if !ok {
		return false
	}
	key := address{ip.Unmap(), u.LinkIndex}
	_, had := a.have[key]
	if u.NewAddr {
		a.have[key] = struct{}{}
	} else {
		delete(a.have, key)
	}
	return had != u.NewAddr
}

// list is each address once, in order.
func (a *addresses) list() []netip.Addr {
	out := make([]netip.Addr, 0, len(a.have))
	for key := range a.have {
		out = append(out, key.addr)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

func (a *addresses) close() {
	if a.done == nil {
		return
	}
	close(a.done)
	a.done = nil
	// Its goroutine ends when it has told what it holds.
	go func(updates <-chan netlink.AddrUpdate) {
		for range updates { //nolint:revive // drained
		}
	}(a.updates)
}

// outbound are the addresses that this host itself would send from to the
// world: what a node's are likely to be while nobody has said.
func outbound() []netip.Addr {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil
	}
	defer h.Close()
	var out []netip.Addr
	// Nothing is sent; these are ranges for documentation.
	for _, to := range []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8::1")} {
		routes, err := h.RouteGet(to.AsSlice())
		if err != nil || len(routes) == 0 {
			continue
		}
		if src, ok := netip.AddrFromSlice(routes[0].Src); ok && !src.IsLoopback() && !src.IsUnspecified() {
			out = append(out, src.Unmap())
		}
	}
	return out
}
