package allocator

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func addresses(t rapid.TB, prefix string) *Addresses {
	a, err := NewAddresses(netip.MustParsePrefix(prefix))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestWhatARangeMayGive(t *testing.T) {
	for _, c := range []struct {
		prefix   string
		size     uint64
		band     uint64
		in, out  []string
		explains string
	}{
		{"10.96.0.0/12", 1<<20 - 2, 256, []string{"10.96.0.1", "10.96.0.10", "10.111.255.254"}, []string{"10.96.0.0", "10.111.255.255", "10.112.0.0", "fd00::1"}, "network and broadcast are not given"},
		{"10.0.0.0/24", 254, 16, []string{"10.0.0.1"}, []string{"10.0.0.0", "10.0.0.255"}, "a /24 keeps 16"},
		{"10.0.0.0/16", 65534, 256, nil, nil, "a /16 keeps 256"},
		{"fd00:10:96::/112", 65535, 256, []string{"fd00:10:96::1", "fd00:10:96::ffff"}, []string{"fd00:10:96::", "fd00:10:97::1"}, "IPv6 has no broadcast"},
		{"fd00::/64", 1<<64 - 1, 256, []string{"fd00::ffff:ffff:ffff:ffff"}, []string{"fd00::"}, "the largest that is addressed by 64 bits"},
		{"10.0.0.0/29", 6, 0, nil, nil, "too small to keep any apart"},
	} {
		a := addresses(t, c.prefix)
		if a.size != c.size || a.band != c.band {
			t.Errorf("%s: size %d band %d, want %d and %d: %s", c.prefix, a.size, a.band, c.size, c.band, c.explains)
		}
		for _, ip := range c.in {
			if !a.Contains(netip.MustParseAddr(ip)) {
				t.Errorf("%s does not give %s", c.prefix, ip)
			}
		}
		for _, ip := range c.out {
			if err := a.Allocate(netip.MustParseAddr(ip)); !errors.Is(err, ErrNotInRange) {
				t.Errorf("%s gives %s: %v: %s", c.prefix, ip, err, c.explains)
			}
		}
	}
	for _, none := range []string{"10.0.0.0/32", "10.0.0.0/31", "fd00::/128"} {
		if _, err := NewAddresses(netip.MustParsePrefix(none)); err == nil {
			t.Errorf("%s is taken for a range", none)
		}
	}
}

func TestTheBandIsUsedLast(t *testing.T) {
	a := addresses(t, "10.0.0.0/24")
	inBand := func(ip netip.Addr) bool { return ip.As4()[3] <= 16 }
	for i := range 254 {
		ip, err := a.AllocateNext(rand.Uint64N)
		if err != nil {
			t.Fatal(err)
		}
		if inBand(ip) != (i >= 238) {
			t.Fatalf("the %dth address is %s", i+1, ip)
		}
	}
	if _, err := a.AllocateNext(rand.Uint64N); !errors.Is(err, ErrFull) {
		t.Errorf("a full range: %v", err)
	}
	a.Release(netip.MustParseAddr("10.0.0.77"))
	if ip, err := a.AllocateNext(rand.Uint64N); err != nil || ip.String() != "10.0.0.77" {
		t.Errorf("the released one: %s %v", ip, err)
	}
}

func TestPorts(t *testing.T) {
	p, err := NewPorts(30000, 2768)
	if err != nil {
		t.Fatal(err)
	}
	if p.Last() != 32767 || p.band != 86 {
		t.Errorf("last %d band %d", p.Last(), p.band)
	}
	for _, out := range []int{0, 29999, 32768, 70000} {
		if err := p.Allocate(out); !errors.Is(err, ErrNotInRange) {
			t.Errorf("%d: %v", out, err)
		}
	}
	if err := p.Allocate(30001); err != nil {
		t.Error(err)
	}
	if err := p.Allocate(30001); !errors.Is(err, ErrAllocated) {
		t.Errorf("again: %v", err)
	}
	if next, err := p.AllocateNext(func(uint64) uint64 { return 0 }); err != nil || next != 30086 {
		t.Errorf("the first above the band is %d, %v", next, err)
	}
	if _, err := NewPorts(65000, 1000); err == nil {
		t.Error("ports over 65535 are accepted")
	}
}

// Whatever the history, no address is given twice, what is given is in the
// range, and a range that is not full gives one.
func TestAddressesProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := addresses(t, rapid.SampledFrom([]string{"10.0.0.0/28", "10.0.0.0/25", "fd00::/122", "fd00::/64"}).Draw(t, "prefix"))
		held := map[netip.Addr]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"next": func(t *rapid.T) {
				free := a.Free()
				ip, err := a.AllocateNext(func(n uint64) uint64 { return rapid.Uint64Range(0, n-1).Draw(t, "random") })
				if (err != nil) != (free == 0) {
					t.Fatalf("%d free: %v", free, err)
				}
				if err == nil {
					if held[ip] || !a.Contains(ip) {
						t.Fatalf("gave %s (held before: %v)", ip, held[ip])
					}
					held[ip] = true
				}
			},
			"ask": func(t *rapid.T) {
				ip := a.address(rapid.Uint64Range(0, min(a.size-1, 300)).Draw(t, "offset"))
				err := a.Allocate(ip)
				if held[ip] != errors.Is(err, ErrAllocated) {
					t.Fatalf("%s held %v: %v", ip, held[ip], err)
				}
				held[ip] = true
			},
			"release": func(t *rapid.T) {
				ip := a.address(rapid.Uint64Range(0, min(a.size-1, 300)).Draw(t, "offset"))
				a.Release(ip)
				delete(held, ip)
			},
			"": func(t *rapid.T) {
				if a.Used() != len(held) {
					t.Fatalf("%d used, %d held", a.Used(), len(held))
				}
			},
		})
	})
}
