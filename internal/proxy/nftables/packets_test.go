package nftables

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/lab"
	"viaduct.dev/viaduct/internal/servicetable"
)

var clusterIP = []string{"10.96.0.7:80", "[fd00:10:96::7]:80"}

// Row "no endpoints" of features.md: every connection is refused at once, in both
// families and from everywhere, by RST; and so is one to what nobody has.
func TestAThousandConnectsAreRefused(t *testing.T) {
	n := newSite(t)
	s, _ := open(t, n.node)
	must(t, s.Apply(verdicts(servicetable.Refuse, servicetable.Refuse, append(clusterIP, "0.0.0.0:30080", "[::]:30080")...)))
	for place, ns := range map[string]*lab.Namespace{"pod": n.pod, "node": n.node, "outside": n.outside} {
		for _, to := range []string{clusterIP[0], clusterIP[1], "172.20.0.11:30080", "[fd00:172:20::11]:30080", "10.96.0.7:81", "10.99.0.1:80", "[fd00:10:96::99]:80"} {
			count := 1000
			if to != clusterIP[0] && to != clusterIP[1] {
				count = 50
			}
			for i := range count {
				if _, _, err := reach(ns, to); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Fatalf("%s, connect %d to %s: %v, want refused", place, i, to, err)
				}
			}
		}
	}
}

// A policy that wants endpoints here drops where there are none, and counts.
func TestLocalPoliciesDropAndCount(t *testing.T) {
	n := newSite(t)
	s, _ := open(t, n.node)
	d := verdicts(servicetable.Drop, servicetable.Drop, clusterIP...) // internalTrafficPolicy
	ext := serves(1, servicetable.HideNode, []int{10}, "192.0.2.7:80", "[2001:db8::7]:80", "0.0.0.0:30080", "[::]:30080")
	for i := range ext.Frontends {
		ext.Frontends[i].New.External = servicetable.View{Verdict: servicetable.Drop}
	}
	d.Frontends, d.Slots = append(d.Frontends, ext.Frontends...), ext.Slots
	must(t, s.Apply(d))
	var all sync.WaitGroup
	for _, c := range []struct {
		from *lab.Namespace
		to   string
		ok   bool
	}{
		{n.pod, clusterIP[0], false}, {n.node, clusterIP[1], false},
		{n.pod, "192.0.2.7:80", true}, {n.node, "[2001:db8::7]:80", true}, {n.pod, "172.20.0.11:30080", true}, {n.node, "[fd00:172:20::11]:30080", true},
		{n.outside, "192.0.2.7:80", false}, {n.outside, "[2001:db8::7]:80", false}, {n.outside, "172.20.0.11:30080", false}, {n.outside, "[fd00:172:20::11]:30080", false},
	} {
		all.Go(func() {
			if _, _, err := reach(c.from, c.to); (err == nil) != c.ok || errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("to %s: %v, want ok %v", c.to, err, c.ok)
			}
		})
	}
	all.Wait()
	internal, external, err := s.Dropped()
	if err != nil || internal < 2 || external < 4 {
		t.Errorf("dropped %d and %d, %v; want 2 and 4 at least", internal, external, err)
	}
}

// What is hidden from the backends, by which address; node ports on the addresses
// that offer them only.
func TestWhoIsHidden(t *testing.T) {
	n := newSite(t)
	cidrs, byKernel := node(), node()
	byKernel.Masquerade = nil
	prefix := config()
	prefix.Local = LocalTraffic{InterfacePrefix: "pod"}
	link := config()
	link.Local = LocalTraffic{Bridge: "pod0"}
	everybody := config()
	everybody.MasqueradeAll = true
	for name, c := range map[string]struct {
		cfg        Config
		node       Node
		pod, other string // what a backend sees of a caller of a cluster IP
	}{
		"by range":             {config(), cidrs, "10.244.0.2", "172.20.0.11"},
		"the kernel's address": {config(), byKernel, "10.244.0.2", "10.244.9.1"},
		"by interface prefix":  {prefix, byKernel, "10.244.0.2", "10.244.9.1"},
		"by interface":         {link, byKernel, "10.244.0.2", "10.244.9.1"},
		"masquerade all":       {everybody, cidrs, "172.20.0.11", "172.20.0.11"},
		"no range of Pods":     {config(), Node{NodePortAddresses: cidrs.NodePortAddresses, ServiceCIDRs: cidrs.ServiceCIDRs}, "10.244.0.2", "172.20.0.200"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openWith(t, n.node, c.cfg, c.node)
			defer s.Close()
			d := serves(1, servicetable.HideOffCluster, []int{10}, clusterIP[0])
			ext := serves(3, servicetable.HideEverybody, []int{11}, "192.0.2.7:80", "0.0.0.0:30080")
			local := serves(5, servicetable.HideNode, []int{12}, "192.0.2.8:80")
			d.Frontends = append(append(d.Frontends, ext.Frontends...), local.Frontends...)
			d.Slots = append(append(d.Slots, ext.Slots...), local.Slots...)
			must(t, s.Apply(d))
			for _, w := range []struct {
				from *lab.Namespace
				to   string
				want string
			}{
				{n.pod, clusterIP[0], c.pod}, {n.outside, clusterIP[0], c.other},
				{n.outside, "192.0.2.8:80", "172.20.0.200"}, {n.pod, "192.0.2.8:80", "10.244.0.2"},
			} {
				if _, saw, err := reach(w.from, w.to); err != nil || saw != w.want {
					t.Errorf("to %s: saw %q, %v, want %s", w.to, saw, err, w.want)
				}
			}
			for _, from := range []*lab.Namespace{n.pod, n.outside} {
				for _, to := range []string{"192.0.2.7:80", "172.20.0.11:30080"} {
					if _, saw, err := reach(from, to); err != nil || saw != "172.20.0.11" && saw != "10.244.9.1" {
						t.Errorf("to %s: saw %q, %v, want an address of the node", to, saw, err)
					}
				}
			}
			if _, _, err := reach(n.pod, "10.244.0.1:30080"); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("an address that offers no node ports: %v", err)
			}
		})
	}
}

// Node facts may change while it runs; just the elements that differ are written.
func TestSetNodeChangesWhatDiffers(t *testing.T) {
	n := newSite(t)
	s, _ := open(t, n.node)
	must(t, s.Apply(serves(1, servicetable.HideEverybody, []int{10}, "0.0.0.0:30080")))
	next := node()
	next.NodePortAddresses = append(next.NodePortAddresses, netip.MustParseAddr("10.244.0.1"))
	before := s.conn.sent
	must(t, s.SetNode(next))
	if sent := s.conn.sent - before; sent == 0 || sent > 300 {
		t.Errorf("one more address took %d bytes", sent)
	}
	if _, _, err := reach(n.pod, "10.244.0.1:30080"); err != nil {
		t.Error(err)
	}
	before = s.conn.sent
	must(t, s.SetNode(next))
	if s.conn.sent != before {
		t.Error("the same again was written")
	}
	must(t, s.SetNode(node()))
	if _, _, err := reach(n.pod, "10.244.0.1:30080"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("an address that was withdrawn: %v", err)
	}
}

// Another version's rules are replaced with traffic under way: no connection
// breaks and none fails, and clients stay where they are bound.
func TestAnUpgradeHasNoGap(t *testing.T) {
	n := newSite(t)
	other := config()
	other.MasqueradeAll = true
	old := openWith(t, n.node, other, node())
	d := serves(11<<28|1, servicetable.HideOffCluster, []int{10, 11, 12, 13, 14, 15, 16}, clusterIP...)
	plain := serves(21, servicetable.HideOffCluster, []int{20, 21}, "10.96.0.8:80")
	d.Frontends, d.Slots = append(d.Frontends, plain.Frontends...), append(d.Slots, plain.Slots...)
	must(t, old.Apply(d))
	open4, bound, _, err := greet(n.pod, clusterIP[0])
	must(t, err)
	defer open4.Close()
	open6, bound6, _, err := greet(n.pod, clusterIP[1])
	must(t, err)
	defer open6.Close()

	var stop atomic.Bool
	var made, failed atomic.Int64
	var load sync.WaitGroup
	for range 2 {
		load.Go(func() {
			for !stop.Load() {
				if _, _, err := reach(n.pod, "10.96.0.8:80"); err != nil {
					failed.Add(1)
					t.Logf("a connection failed: %v", err)
				}
				made.Add(1)
			}
		})
	}
	for i := range 10 {
		old.Close()
		cfg := config()
		cfg.MasqueradeAll = i%2 == 1
		old = openWith(t, n.node, cfg, node())
		must(t, old.Apply(d))
		now := made.Load()
		await(t, 5*time.Second, "traffic goes on", func() bool { return made.Load() > now+20 })
	}
	stop.Store(true)
	load.Wait()
	old.Close()
	if failed.Load() > 0 {
		t.Errorf("%d of %d connections failed", failed.Load(), made.Load())
	}
	if err := errors.Join(echoes(open4), echoes(open6)); err != nil {
		t.Errorf("an established connection broke: %v", err)
	}
	for range 10 {
		for i, want := range []string{bound, bound6} {
			if got, _, err := reach(n.pod, clusterIP[i]); err != nil || got != want {
				t.Errorf("a client that is bound to %s reached %s, %v", want, got, err)
			}
		}
	}
	s := openWith(t, n.node, other, node())
	defer s.Close()
	err = s.conn.elements(unix.NFPROTO_IPV4, "aff", func(e element) {
		if left := time.Duration(e.expiration) * time.Millisecond; e.timeout != 10800_000 || left > 3*time.Hour {
			t.Errorf("timeout %d ms, left %s", e.timeout, left)
		}
	})
	must(t, err)
}
