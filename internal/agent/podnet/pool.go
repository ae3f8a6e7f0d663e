package podnet

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
)

// ErrFull says that all addresses of the node's range are in use.
var ErrFull = errors.New("no pod address is free on this node")

// pool gives out addresses by their index in the node's ranges: a Pod has the
// same one in both families. An index that was given back is used again as late
// as possible, so that what others still remember of a Pod reaches no other.
type pool struct {
	cidrs []netip.Prefix
	size  int // indices 2..size-1 are given out; 1 is left to a gateway of other networks
	used  map[int]string
	last  int
}

func newPool(cidrs []netip.Prefix) (*pool, error) {
	p := &pool{size: math.MaxUint16, used: map[int]string{}, last: 1}
	if len(cidrs) == 0 {
		return nil, errors.New("the node has no pod CIDR")
	}
	for _, c := range cidrs {
		p.cidrs = append(p.cidrs, c.Masked())
		free := c.Addr().BitLen() - c.Bits()
		if free < 2 {
			return nil, fmt.Errorf("pod CIDR %s is too small", c)
		}
		if free < 16 {
			size := 1 << free
			if c.Addr().Is4() {
				size-- // the broadcast address
			}
			p.size = min(p.size, size)
		}
	}
	return p, nil
}

// take gives the next free index to a Pod.
func (p *pool) take(uid string) (int, error) {
	for range p.size {
		p.last++
		if p.last >= p.size {
			p.last = 2
		}
		if _, ok := p.used[p.last]; !ok && p.last < p.size {
			p.used[p.last] = uid
			return p.last, nil
		}
	}
	return 0, ErrFull
}

// claim takes the index of addresses that a Pod already has. It fails if they
// are not of these ranges or another Pod has them.
func (p *pool) claim(uid string, addrs []netip.Addr) (int, bool) {
	if len(addrs) != len(p.cidrs) {
		return 0, false
	}
	index := -1
	for i := 2; i < p.size && index < 0; i++ {
		if p.address(0, i) == addrs[0] {
			index = i
		}
	}
	if index < 0 {
		return 0, false
	}
	for f := range addrs {
		if p.address(f, index) != addrs[f] {
			return 0, false
		}
	}
	if owner, ok := p.used[index]; ok && owner != uid {
		return 0, false
	}
	p.used[index] = uid
	return index, true
}

func (p *pool) release(uid string) {
	for i, owner := range p.used {
		if owner == uid {
			delete(p.used, i)
		}
	}
}

func (p *pool) addresses(index int) []netip.Addr {
	var addrs []netip.Addr
	for f := range p.cidrs {
		addrs = append(addrs, p.address(f, index))
	}
	return addrs
}

func (p *pool) address(family, index int) netip.Addr {
	b := p.cidrs[family].Addr().AsSlice()
	for i := len(b) - 1; index > 0 && i >= 0; i-- {
		index += int(b[i])
		b[i] = byte(index)
		index >>= 8
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
