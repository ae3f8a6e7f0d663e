// Package nodelocal puts the cluster DNS addresses on a node itself, so that a
// query never leaves it.
package nodelocal

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrHostNamespace says that the process is in the network namespace of the
// machine's first process, where nothing of ours belongs unless it is asked for.
var ErrHostNamespace = errors.New("refused in the host's own network namespace")

// Assign puts addresses on the loopback of this process's network namespace, each
// alone (/32, /128). Those that are there already are no error. Unless host is
// true it refuses to do so in the host's own namespace.
func Assign(addrs []netip.Addr, host bool) error {
	if !host {
		inHost, err := inHostNamespace()
		if err != nil {
			return fmt.Errorf("assign the cluster DNS addresses: %w", err)
		}
		if inHost {
			return fmt.Errorf("assign the cluster DNS addresses: %w", ErrHostNamespace)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("assign the cluster DNS addresses: find lo: %w", err)
	}
	for _, a := range addrs {
		addr := &netlink.Addr{IPNet: netlink.NewIPNet(a.AsSlice())}
		if a.Is6() {
			// Never chosen as a source address of its own accord.
			addr.Flags, addr.PreferedLft, addr.ValidLft = unix.IFA_F_NODAD, 0, 1<<31-1
		} else {
			addr.Scope = int(netlink.SCOPE_HOST)
		}
		if err := netlink.AddrReplace(lo, addr); err != nil {
			return fmt.Errorf("assign the cluster DNS address %s: %w", a, err)
		}
	}
	return nil
}

func inHostNamespace() (bool, error) {
	own, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		return false, err
	}
	first, err := os.Stat("/proc/1/ns/net")
	if errors.Is(err, os.ErrPermission) {
		// A container that may not look at the first process is not the host.
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(own, first), nil
}
