package allocator

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
)

// Addresses hands out the addresses of one range of cluster IPs. The first
// address is never handed out (the network's, or the routers' anycast), nor is
// the last one of an IPv4 range (broadcast).
type Addresses struct {
	prefix netip.Prefix
	numbers
}

// NewAddresses makes an empty allocator of a range that has at least one
// address to give.
func NewAddresses(prefix netip.Prefix) (*Addresses, error) {
	if !prefix.IsValid() {
		return nil, fmt.Errorf("invalid range of addresses")
	}
	prefix = prefix.Masked()
	hostBits := prefix.Addr().BitLen() - prefix.Bits()
	size := uint64(math.MaxUint64)
	if hostBits < 64 {
		size = 1<<hostBits - 1 // without the first
	}
	if prefix.Addr().Is4() && size > 0 {
		size-- // without the last
	}
	if size == 0 {
		return nil, fmt.Errorf("range %s has no address to give", prefix)
	}
	band := min(max(16, size/16), 256)
	if band >= size {
		band = 0 // too small a range to keep any of it apart
	}
	return &Addresses{prefix: prefix, numbers: newNumbers(size, band)}, nil
}

// Prefix is the range.
func (a *Addresses) Prefix() netip.Prefix { return a.prefix }

// Contains says whether an address is one that the range may hand out.
func (a *Addresses) Contains(ip netip.Addr) bool {
	_, err := a.offset(ip)
	return err == nil
}

// Allocate takes the address that was asked for. It returns ErrNotInRange or
// ErrAllocated.
func (a *Addresses) Allocate(ip netip.Addr) error {
	offset, err := a.offset(ip)
	if err != nil {
		return err
	}
	return a.take(offset)
}

// AllocateNext takes any free address; random(n) gives a number below n. It
// returns ErrFull when there is none.
func (a *Addresses) AllocateNext(random func(n uint64) uint64) (netip.Addr, error) {
	offset, err := a.takeNext(random)
	if err != nil {
		return netip.Addr{}, err
	}
	return a.address(offset), nil
}

// Has says whether an address is in use.
func (a *Addresses) Has(ip netip.Addr) bool {
	offset, err := a.offset(ip)
	return err == nil && a.has(offset)
}

// Release gives an address back. One that is not in use is ignored.
func (a *Addresses) Release(ip netip.Addr) {
	if offset, err := a.offset(ip); err == nil {
		a.release(offset)
	}
}

// Used is how many addresses are in use; Free is how many are left.
func (a *Addresses) Used() int { return len(a.used) }

// Free is how many addresses are left.
func (a *Addresses) Free() uint64 { return a.size - uint64(len(a.used)) }

// offset counts from the second address of the range.
func (a *Addresses) offset(ip netip.Addr) (uint64, error) {
	if !a.prefix.Contains(ip) {
		return 0, ErrNotInRange
	}
	n := low64(ip) - low64(a.prefix.Addr())
	if n == 0 || n-1 >= a.size {
		return 0, ErrNotInRange
	}
	return n - 1, nil
}

func (a *Addresses) address(offset uint64) netip.Addr {
	n := low64(a.prefix.Addr()) + offset + 1
	if a.prefix.Addr().Is4() {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(n))
		return netip.AddrFrom4(b)
	}
	b := a.prefix.Addr().As16()
	binary.BigEndian.PutUint64(b[8:], n)
	return netip.AddrFrom16(b)
}

// low64 is an address's last 64 bits; a range never spans more than those.
func low64(ip netip.Addr) uint64 {
	if ip.Is4() {
		b := ip.As4()
		return uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := ip.As16()
	return binary.BigEndian.Uint64(b[8:])
}
