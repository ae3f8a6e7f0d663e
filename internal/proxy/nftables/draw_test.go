package nftables

import (
	"fmt"
	"testing"

	"viaduct.dev/viaduct/internal/servicetable"
)

// Real connections are spread evenly: within bounds that a fair draw leaves once
// in a million times.
func TestBackendsAreDrawnEvenly(t *testing.T) {
	n := newSite(t)
	s, _ := open(t, n.node)
	for i, c := range []struct {
		size int
		most float64 // of chi squared at size-1 degrees of freedom, p = 1e-6
	}{{2, 23.9}, {5, 33.4}, {9, 42.7}, {13, 51.2}} {
		var hosts []int
		for h := range c.size {
			hosts = append(hosts, 10+h)
		}
		to := fmt.Sprintf("10.96.1.%d:80", c.size)
		must(t, s.Apply(serves(servicetable.PoolID(10*i+1), servicetable.HideOffCluster, hosts, to)))
		seen := map[string]int{}
		const connections = 1500
		for range connections {
			got, _, err := reach(n.pod, to)
			must(t, err)
			seen[got]++
		}
		want := float64(connections) / float64(c.size)
		sum := 0.0
		for _, h := range hosts {
			off := float64(seen[fmt.Sprintf("10.244.9.%d", h)]) - want
			sum += off * off / want
		}
		if sum > c.most || len(seen) != c.size {
			t.Errorf("%d backends: chi squared %.1f, over %.1f: %v", c.size, sum, c.most, seen)
		}
	}
}

// Row "pools of up to 10,000 endpoints": every slot is filled, and all are drawn.
func TestALargePoolServes(t *testing.T) {
	n := newSite(t)
	s, _ := open(t, n.node)
	hosts := make([]int, 10000)
	for i := range hosts {
		hosts[i] = 10 + i%30
	}
	must(t, s.Apply(serves(1, servicetable.HideOffCluster, hosts, clusterIP...)))
	for _, f := range s.families {
		slots := 0
		must(t, s.conn.elements(f.proto, "eps", func(element) { slots++ }))
		if slots != len(hosts) {
			t.Errorf("%d slots", slots)
		}
	}
	seen := map[string]bool{}
	for range 600 {
		for _, to := range clusterIP {
			got, _, err := reach(n.pod, to)
			must(t, err)
			seen[got] = true
		}
	}
	if len(seen) != 60 { // a host is missed once in ten million times
		t.Errorf("%d of 60 addresses answered", len(seen))
	}
	// It shrinks at once, and nobody falls into a hole.
	few := serves(1, servicetable.HideOffCluster, hosts[:3], clusterIP...)
	was := serves(1, servicetable.HideOffCluster, hosts, clusterIP...)
	d := &servicetable.Diff{}
	for i, c := range few.Frontends {
		c.Old = was.Frontends[i].New
		d.Frontends = append(d.Frontends, c)
	}
	for _, c := range was.Slots {
		if c.Slot >= 3 {
			c.Old, c.New = c.New, c.Old
			d.Slots = append(d.Slots, c)
		}
	}
	must(t, s.Apply(d))
	for range 20 {
		for _, to := range clusterIP {
			if _, _, err := reach(n.pod, to); err != nil {
				t.Fatal(err)
			}
		}
	}
}
