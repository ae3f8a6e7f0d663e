package servicetable

import (
	"bytes"
	"cmp"
	"net/netip"
)

// A table of many thousand Services holds addresses without pointers, so that it
// is small and the garbage collector has nothing to walk.

// ip is an address of either family; those of IPv4 are mapped.
type ip [16]byte

func (a ip) addr() netip.Addr { return netip.AddrFrom16(a).Unmap() }

func (a ip) is4() bool {
	return [12]byte(a[:12]) == [12]byte{10: 0xff, 11: 0xff}
}

// backend is an address and port; the zero value is none.
type backend struct {
	ip   ip
	port uint16
}

func (b backend) valid() bool { return b.port != 0 }

func (b backend) addrPort() netip.AddrPort {
	if !b.valid() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(b.ip.addr(), b.port)
}

func backendOf(ap netip.AddrPort) backend {
	if !ap.IsValid() {
		return backend{}
	}
	return backend{ip(ap.Addr().As16()), ap.Port()}
}

func (b backend) compare(c backend) int {
	return cmp.Or(bytes.Compare(b.ip[:], c.ip[:]), cmp.Compare(b.port, c.port))
}

// front is a Frontend.
type front struct {
	ip       ip
	port     uint16
	protocol Protocol
}

func frontOf(f Frontend) front { return front{ip(f.Addr.As16()), f.Port, f.Protocol} }

func (f front) frontend() Frontend { return Frontend{f.ip.addr(), f.port, f.protocol} }

// compare orders as Frontend's does.
func (f front) compare(g front) int {
	if f.ip.is4() != g.ip.is4() {
		if f.ip.is4() {
			return -1
		}
		return 1
	}
	return cmp.Or(bytes.Compare(f.ip[:], g.ip[:]), cmp.Compare(f.port, g.port), cmp.Compare(f.protocol, g.protocol))
}
