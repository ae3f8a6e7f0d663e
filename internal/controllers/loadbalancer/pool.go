package loadbalancer

import (
	"errors"
	"net/netip"
)

// pool hands out load-balancer addresses. It is a value of what is in use; the
// API's objects are the truth, from which it is filled at every start.
type pool struct {
	ranges []netip.Prefix
	users  map[netip.Addr]string // the Service that has it
	of     map[string][]netip.Addr
}

var (
	errExhausted = errors.New("every address of the pool is in use")
	errTaken     = errors.New("the address is in use")
	errOutside   = errors.New("the address is not in the pool")
	errNoFamily  = errors.New("the pool has no range of this family")
)

func newPool(ranges []netip.Prefix) *pool {
	return &pool{ranges: ranges, users: map[netip.Addr]string{}, of: map[string][]netip.Addr{}}
}

func (p *pool) contains(ip netip.Addr) bool {
	for _, r := range p.ranges {
		if r.Contains(ip) {
			return true
		}
	}
	return false
}

// hold takes a certain address.
func (p *pool) hold(ip netip.Addr, user string) error {
	switch have := p.users[ip]; {
	case !p.contains(ip):
		return errOutside
	case have == user:
		return nil
	case have != "":
		return errTaken
	}
	p.users[ip] = user
	p.of[user] = append(p.of[user], ip)
	return nil
}

// take takes the first free address of a family. The first of an IPv4 range and
// its last are left alone: many hosts take them for network and broadcast.
func (p *pool) take(v6 bool, user string) (netip.Addr, error) {
	err := errNoFamily
	for _, r := range p.ranges {
		if r.Addr().Is6() != v6 {
			continue
		}
		err = errExhausted
		for ip := r.Masked().Addr().Next(); r.Contains(ip); ip = ip.Next() {
			if p.users[ip] != "" || !v6 && !r.Contains(ip.Next()) {
				continue
			}
			return ip, p.hold(ip, user)
		}
	}
	return netip.Addr{}, err
}

// release gives back everything that a Service has, but what it keeps.
func (p *pool) release(user string, keep ...netip.Addr) {
	var kept []netip.Addr
	for _, ip := range p.of[user] {
		stays := false
		for _, k := range keep {
			stays = stays || k == ip
		}
		if stays {
			kept = append(kept, ip)
		} else {
			delete(p.users, ip)
		}
	}
	if len(kept) == 0 {
		delete(p.of, user)
		return
	}
	p.of[user] = kept
}
