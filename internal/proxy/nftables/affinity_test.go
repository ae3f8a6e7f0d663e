package nftables

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/lab"
	"viaduct.dev/viaduct/internal/servicetable"
)

// Row sessionAffinity of features.md: a client stays with its backend through
// changes and restarts, for each kind of frontend and family, until the backend
// has left that frontend.
func TestClientsStayUntilTheirBackendLeaves(t *testing.T) {
	n := newSite(t)
	s, _ := open(t, n.node)
	frontends := append([]string{"192.0.2.7:80", "[2001:db8::7]:80", "0.0.0.0:30080", "[::]:30080"}, clusterIP...)
	const pool = 11<<28 | 1
	hosts := []int{10, 11, 12, 13, 14, 15, 16}
	d := serves(pool, servicetable.HideNode, hosts, frontends...)
	must(t, s.Apply(d))
	dialed := map[string]servicetable.Frontend{
		"172.20.0.11:30080": tcp("0.0.0.0:30080"), "[fd00:172:20::11]:30080": tcp("[::]:30080"),
	}
	for _, to := range append(clusterIP, frontends[:2]...) {
		dialed[to] = tcp(to)
	}
	bound := map[string]string{}
	for to := range dialed {
		got, _, err := reach(n.pod, to)
		must(t, err)
		bound[to] = got
	}
	stay := func(when string) {
		t.Helper()
		for to, want := range bound {
			for range 4 {
				if got, _, err := reach(n.pod, to); err != nil || got != want {
					t.Errorf("%s: %s is bound to %s and reached %s, %v", when, to, want, got, err)
				}
			}
		}
	}
	stay("at first")
	// Another backend comes.
	more := serves(pool, servicetable.HideNode, append(slices.Clone(hosts), 17), frontends...)
	change := &servicetable.Diff{Slots: []servicetable.SlotChange{more.Slots[7], more.Slots[15]}}
	if !change.Slots[0].New.IsValid() || change.Slots[0].Slot != 7 || change.Slots[1].Slot != 7 {
		t.Fatal("slots are not as expected")
	}
	must(t, s.Apply(change))
	stay("after a change")
	s.Close()
	s, _ = open(t, n.node)
	must(t, s.Apply(more))
	stay("after a restart")

	// A backend leaves one frontend: its clients alone choose anew.
	const leaves = "192.0.2.7:80"
	must(t, s.Forget([]servicetable.Gone{
		{Frontend: tcp(leaves), Backend: netip.MustParseAddrPort(bound[leaves] + ":8080"), Affinity: true},
		{Frontend: tcp(leaves), Backend: netip.MustParseAddrPort("10.244.9.99:8080"), Affinity: true},
	}))
	left := 0
	must(t, s.conn.elements(unix.NFPROTO_IPV4, "aff", func(e element) {
		if b, _ := s.families[0].binding(e); b.frontend == tcp(leaves) {
			left++
		}
	}))
	if left != 0 {
		t.Errorf("%d clients are still bound", left)
	}
	delete(bound, leaves)
	stay("after others were forgotten")
	must(t, s.Forget([]servicetable.Gone{{Frontend: tcp("0.0.0.0:30080"), Backend: netip.MustParseAddrPort(bound["172.20.0.11:30080"] + ":8080"), Affinity: true}}))
	must(t, s.conn.elements(unix.NFPROTO_IPV4, "aff", func(e element) {
		if b, _ := s.families[0].binding(e); b.frontend.Port == 30080 {
			t.Errorf("a client of the node port is still bound: %+v", b)
		}
	}))
	delete(bound, "172.20.0.11:30080")
	stay("after the node port's were forgotten")
}

// clients counts who is bound in IPv4.
func (s *Sink) clients(t *testing.T) (all []binding) {
	t.Helper()
	must(t, s.conn.elements(unix.NFPROTO_IPV4, "aff", func(e element) {
		b, ok := s.families[0].binding(e)
		if !ok {
			t.Errorf("element %x : %x is no binding", e.key, e.data)
		}
		all = append(all, b)
	}))
	return all
}

// What changed while no proxy ran is made up for: nobody stays with a backend
// that his view of the frontend has no more. So is affinity that is switched off.
func TestNobodyStaysWithWhatHasLeftUnseen(t *testing.T) {
	n := newSite(t)
	const pool = 5<<28 | 1
	only := func(host int, to ...string) *servicetable.Diff {
		return serves(pool, servicetable.HideNode, []int{host}, to...)
	}
	const to = "192.0.2.7:80"
	for name, c := range map[string]struct {
		from *lab.Namespace
		next func() *servicetable.Diff
		stay bool
	}{
		"as it was":                 {n.pod, func() *servicetable.Diff { return only(10, to) }, true},
		"another backend":           {n.pod, func() *servicetable.Diff { return only(11, to) }, false},
		"no such frontend any more": {n.pod, func() *servicetable.Diff { return &servicetable.Diff{} }, false},
		"no affinity any more":      {n.pod, func() *servicetable.Diff { return serves(1, servicetable.HideNode, []int{10}, to) }, false},
		"left the view from outside": {n.outside, func() *servicetable.Diff {
			d, local := only(10, to), serves(5<<28|7, servicetable.HideNode, []int{11}, to)
			d.Frontends[0].New.External = local.Frontends[0].New.External
			d.Slots = append(d.Slots, local.Slots...)
			return d
		}, false},
		"left the view from outside alone": {n.pod, func() *servicetable.Diff {
			d, local := only(10, to), serves(5<<28|7, servicetable.HideNode, []int{11}, to)
			d.Frontends[0].New.External = local.Frontends[0].New.External
			d.Slots = append(d.Slots, local.Slots...)
			return d
		}, true},
	} {
		for _, otherRules := range []bool{false, true} {
			cfg := config()
			s := openWith(t, n.node, cfg, node())
			must(t, s.Apply(only(10, to)))
			_, _, err := reach(c.from, to)
			must(t, err)
			if len(s.clients(t)) != 1 {
				t.Fatal("nobody is bound")
			}
			s.Close()
			cfg.MasqueradeAll = otherRules
			s = openWith(t, n.node, cfg, node())
			must(t, s.Apply(c.next()))
			if got := len(s.clients(t)) == 1; got != c.stay {
				t.Errorf("%s (other rules: %v): stays %v, want %v", name, otherRules, got, c.stay)
			}
			s.Close()
			must(t, n.node.Do(Cleanup))
		}
	}
	s, _ := open(t, n.node)
	with, without := only(10, to), serves(1, servicetable.HideNode, []int{10}, to)
	must(t, s.Apply(with))
	_, _, err := reach(n.pod, to)
	must(t, err)
	without.Frontends[0].Old = with.Frontends[0].New
	must(t, s.Apply(without))
	if all := s.clients(t); len(all) != 0 {
		t.Errorf("without affinity %v are bound", all)
	}
}

// A client's time begins anew with each connection, and ends.
func TestAffinityIsRenewedByUse(t *testing.T) {
	n := newSite(t)
	s, _ := open(t, n.node)
	must(t, s.Apply(serves(1<<28|1, servicetable.HideNode, []int{10}, clusterIP...))) // 10 s
	left := func() (ms uint64) {
		must(t, s.conn.elements(unix.NFPROTO_IPV4, "aff", func(e element) { ms = e.expiration }))
		return ms
	}
	_, _, err := reach(n.pod, clusterIP[0])
	must(t, err)
	await(t, 5*time.Second, "time passes", func() bool { return left() < 9800 })
	was := left()
	_, _, err = reach(n.pod, clusterIP[0])
	must(t, err)
	if now := left(); now <= was {
		t.Errorf("%d ms are left, %d were before", now, was)
	}
}
