package nodeipam

import (
	"net/netip"
	"testing"
)

func TestRangesAreCutInOrderAndNeverTwice(t *testing.T) {
	for _, c := range []struct {
		cluster string
		bits    int
		count   int
		third   string
	}{
		{"10.244.0.0/16", 24, 256, "10.244.2.0/24"},
		{"fd00:10:244::/56", 64, 256, "fd00:10:244:2::/64"},
		{"fd00::/100", 104, 16, "fd00::200:0/104"},
		{"10.0.0.0/30", 32, 4, "10.0.0.2/32"},
	} {
		r := Range{Cluster: netip.MustParsePrefix(c.cluster), NodeBits: c.bits}
		used := map[netip.Prefix]bool{}
		for i := range c.count {
			p, ok := nextFree(r, used)
			if !ok || used[p] || !r.Cluster.Contains(p.Addr()) {
				t.Fatalf("%s: the %dth range is %s, %v", c.cluster, i+1, p, ok)
			}
			if i == 2 && p.String() != c.third {
				t.Errorf("%s: the third range is %s, want %s", c.cluster, p, c.third)
			}
			used[p] = true
		}
		if p, ok := nextFree(r, used); ok {
			t.Errorf("%s gives %s though all is taken", c.cluster, p)
		}
	}
}
