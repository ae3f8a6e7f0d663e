package planetest

import (
	"fmt"
	"net/netip"
	"testing"

	"viaduct.dev/viaduct/internal/lab"
	"viaduct.dev/viaduct/internal/lab/labtest"
	"viaduct.dev/viaduct/internal/proxy/oracle"
)

// World is a node with everything that can call it, in namespaces:
//
//	here-0..2 ---.            .--- outside (two addresses)
//	              node --------
//	there-0..1 --'            '--- uplink (where nothing lives)
//
// Every host has an address of each family, and all but uplink answer at Ports.
type World struct {
	// Facts are what the node's proxy knows of it.
	Facts oracle.Node
	// Hosts are all who call and answer, the node itself among them.
	Hosts []*Host

	node *lab.Namespace
	echo *echo
	port uint16 // that was called from last
}

// Host is one that calls and answers.
type Host struct {
	Name  string
	Place oracle.Place
	// Addresses are all that it may call from; it answers at each.
	Addresses []netip.Addr

	ns    *lab.Namespace
	enter chan func()
}

// Ports are where every host answers, over TCP and UDP.
var Ports = []uint16{8080, 9090}

// HeldAddresses are load-balancer addresses that the node itself holds, as some
// clouds do it.
var HeldAddresses = addresses("172.20.255.9", "fd00:172:20:ff::9")

func addresses(texts ...string) (all []netip.Addr) {
	for _, t := range texts {
		all = append(all, netip.MustParseAddr(t))
	}
	return all
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, t := range texts {
		all = append(all, netip.MustParsePrefix(t))
	}
	return all
}

// NewWorld makes a world that ends with the test.
func NewWorld(t testing.TB) *World {
	t.Helper()
	w := &World{
		node: labtest.New(t),
		Facts: oracle.Node{
			Name: "node-1", Zone: "zone-a",
			Addresses:         addresses("172.20.0.11", "fd00:172:20::b", "172.20.0.12", "fd00:172:20::c"),
			NodePortAddresses: addresses("172.20.0.11", "fd00:172:20::b"),
			LocalCIDRs:        prefixes("10.244.0.0/16", "fd00:10:244::/56"),
			ServiceCIDRs:      prefixes("10.96.0.0/16", "fd00:10:96::/112"),
		},
	}
	must(t, settle(w.node, true))
	// Ports are called from again sooner than conntrack would forget them.
	must(t, w.node.Sysctl("net.netfilter.nf_conntrack_udp_timeout", "5"))
	must(t, w.node.Sysctl("net.netfilter.nf_conntrack_udp_timeout_stream", "5"))
	for _, p := range prefixes("172.20.255.9/32", "fd00:172:20:ff::9/128") {
		must(t, w.node.AddAddress("lo", p))
	}
	w.add(t, &Host{Name: "outside", Place: oracle.Outside},
		prefixes("172.20.0.11/24", "fd00:172:20::b/64", "172.20.0.12/24", "fd00:172:20::c/64"),
		prefixes("172.20.0.200/24", "fd00:172:20::c8/64", "172.20.0.201/24", "fd00:172:20::c9/64"))
	for i := range 3 {
		w.pod(t, fmt.Sprintf("here-%d", i), oracle.PodHere, i)
	}
	for i := range 2 {
		w.pod(t, fmt.Sprintf("there-%d", i), oracle.PodThere, 16+i)
	}
	node := &Host{Name: "node", Place: oracle.Host, Addresses: w.Facts.Addresses, ns: w.node}
	w.Hosts = append(w.Hosts, node)
	w.uplink(t)

	for _, h := range w.Hosts {
		h.enter = make(chan func())
		go h.ns.Do(func() error {
			for fn := range h.enter {
				fn()
			}
			return nil
		})
		t.Cleanup(func() { close(h.enter) })
	}
	w.echo = newEcho(t, w.Hosts)
	return w
}

// settle makes a namespace forward, or not, and takes the limits off that a test
// would run into.
func settle(ns *lab.Namespace, forward bool) error {
	on := map[bool]string{true: "1", false: "0"}[forward]
	for _, s := range [][2]string{
		{"net.ipv4.ip_forward", on}, {"net.ipv6.conf.all.forwarding", on},
		{"net.ipv4.conf.all.rp_filter", "0"}, {"net.ipv4.conf.default.rp_filter", "0"},
		{"net.ipv4.conf.all.send_redirects", "0"}, {"net.ipv4.conf.default.send_redirects", "0"},
		{"net.ipv4.icmp_ratemask", "0"}, {"net.ipv6.icmp.ratemask", "\n"},
	} {
		if err := ns.Sysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}

// add joins a host to the node.
func (w *World) add(t testing.TB, h *Host, atNode, atHost []netip.Prefix) {
	h.ns = labtest.New(t)
	must(t, settle(h.ns, false))
	must(t, lab.Connect(w.node, h.Name, h.ns, "eth0"))
	for _, p := range atNode {
		must(t, w.node.AddAddress(h.Name, p))
	}
	for _, p := range atHost {
		must(t, h.ns.AddAddress("eth0", p))
		h.Addresses = append(h.Addresses, p.Addr())
	}
	must(t, h.ns.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), atNode[0].Addr()))
	must(t, h.ns.AddRoute(netip.MustParsePrefix("::/0"), atNode[1].Addr()))
	w.Hosts = append(w.Hosts, h)
}

func (w *World) pod(t testing.TB, name string, place oracle.Place, number int) {
	w.add(t, &Host{Name: name, Place: place},
		prefixes(fmt.Sprintf("10.244.%d.1/24", number), fmt.Sprintf("fd00:10:244:%x::1/64", number)),
		prefixes(fmt.Sprintf("10.244.%d.2/24", number), fmt.Sprintf("fd00:10:244:%x::2/64", number)))
	w.Facts.Addresses = append(w.Facts.Addresses, addresses(fmt.Sprintf("10.244.%d.1", number), fmt.Sprintf("fd00:10:244:%x::1", number))...)
}

// uplink is the way to everywhere else, which says at once that nothing is there.
func (w *World) uplink(t testing.TB) {
	ns := labtest.New(t)
	must(t, settle(ns, true))
	must(t, lab.Connect(w.node, "uplink", ns, "eth0"))
	for _, p := range prefixes("172.21.0.1/24", "fd00:172:21::1/64") {
		must(t, w.node.AddAddress("uplink", p))
		w.Facts.Addresses = append(w.Facts.Addresses, p.Addr())
	}
	for _, p := range prefixes("172.21.0.2/24", "fd00:172:21::2/64") {
		must(t, ns.AddAddress("eth0", p))
	}
	must(t, w.node.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("172.21.0.2")))
	must(t, w.node.AddRoute(netip.MustParsePrefix("::/0"), netip.MustParseAddr("fd00:172:21::2")))
	// Callers are known there, so that they can be told.
	must(t, ns.AddRoute(netip.MustParsePrefix("172.20.0.0/24"), netip.MustParseAddr("172.21.0.1")))
	must(t, ns.AddRoute(netip.MustParsePrefix("10.244.0.0/16"), netip.MustParseAddr("172.21.0.1")))
	must(t, ns.AddRoute(netip.MustParsePrefix("fd00:172:20::/64"), netip.MustParseAddr("fd00:172:21::1")))
	must(t, ns.AddRoute(netip.MustParsePrefix("fd00:10:244::/56"), netip.MustParseAddr("fd00:172:21::1")))
}

// Do runs fn in the node's namespace, where a data plane belongs.
func (w *World) Do(fn func() error) error { return w.node.Do(fn) }

// host is whose address it is.
func (w *World) host(a netip.Addr) *Host {
	for _, h := range w.Hosts {
		for _, own := range h.Addresses {
			if own == a {
				return h
			}
		}
	}
	return nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
