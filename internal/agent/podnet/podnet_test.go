package podnet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"viaduct.dev/viaduct/internal/lab"
	"viaduct.dev/viaduct/internal/lab/labtest"
)

func TestAddressesAreNotSharedAndReusedLate(t *testing.T) {
	p, err := newPool([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/29"), netip.MustParsePrefix("fd00::/64")})
	if err != nil {
		t.Fatal(err)
	}
	var got []netip.Addr
	for i := range 5 {
		n, err := p.take(strconv.Itoa(i))
		if err != nil {
			t.Fatal(err)
		}
		a := p.addresses(n)
		got = append(got, a[0])
		if want := netip.MustParseAddr("fd00::" + strconv.Itoa(n)); a[1] != want {
			t.Errorf("index %d is %s, want %s", n, a[1], want)
		}
		if i == 1 {
			p.release("0")
		}
	}
	want := []netip.Addr{}
	for _, s := range []string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"} {
		want = append(want, netip.MustParseAddr(s))
	}
	if !slices.Equal(got, want) {
		t.Errorf("gave %v, want %v: what was given back comes last", got, want)
	}
	if n, err := p.take("again"); err != nil || n != 2 {
		t.Errorf("the freed index: %d %v", n, err)
	}
	if _, err := p.take("one too many"); !errors.Is(err, ErrFull) {
		t.Errorf("a full pool: %v", err)
	}
	if _, ok := p.claim("thief", p.addresses(3)); ok {
		t.Error("two pods have one address")
	}
	if _, ok := p.claim("1", p.addresses(3)); !ok {
		t.Error("a pod may not keep its own")
	}
}

// node is a node on a network of two.
type node struct {
	*Network
	ns   *lab.Namespace
	cfg  Config
	pods int
}

func newNodes(t *testing.T) (*node, *node) {
	t.Helper()
	a, b := labtest.New(t), labtest.New(t)
	if err := lab.Connect(a, "eth0", b, "eth0"); err != nil {
		t.Fatal(err)
	}
	var nodes []*node
	for i, ns := range []*lab.Namespace{a, b} {
		n := strconv.Itoa(i + 1)
		cfg := Config{
			Node: ns, Dir: t.TempDir(), MTU: 1400,
			NodeIPs:  []netip.Addr{netip.MustParseAddr("172.20.0.1" + n), netip.MustParseAddr("fd00:172:20::1" + n)},
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244." + n + ".0/24"), netip.MustParsePrefix("fd00:10:244:" + n + "::/64")},
		}
		for f, bits := range []int{16, 64} {
			if err := ns.AddAddress("eth0", netip.PrefixFrom(cfg.NodeIPs[f], bits)); err != nil {
				t.Fatal(err)
			}
		}
		network, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, &node{Network: network, ns: ns, cfg: cfg})
	}
	return nodes[0], nodes[1]
}

func (n *node) via() map[netip.Prefix]netip.Addr {
	return map[netip.Prefix]netip.Addr{n.cfg.PodCIDRs[0]: n.cfg.NodeIPs[0], n.cfg.PodCIDRs[1]: n.cfg.NodeIPs[1]}
}

type pod struct {
	ns        *lab.Namespace
	dir, uid  string
	addresses []netip.Addr
}

func (p pod) path() string { return "/proc/self/fd/" + strconv.Itoa(int(p.ns.File().Fd())) }

func (n *node) pod(t *testing.T) pod {
	t.Helper()
	n.pods++
	p := pod{ns: labtest.New(t), dir: t.TempDir(), uid: t.Name() + n.cfg.NodeIPs[0].String() + strconv.Itoa(n.pods)}
	var err error
	if p.addresses, err = n.Attach(p.dir, p.uid, p.path()); err != nil {
		t.Fatal(err)
	}
	return p
}

// caller connects to a server at an address and says whom the server saw.
func caller(t *testing.T, from, at *lab.Namespace, addr netip.Addr) (netip.Addr, error) {
	t.Helper()
	l, err := at.Listen(t.Context(), "tcp", net.JoinHostPort(addr.String(), "0"))
	if err != nil {
		return netip.Addr{}, err
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			io.WriteString(c, c.RemoteAddr().String())
			c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	c, err := from.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	text, err := io.ReadAll(c)
	if err != nil {
		return netip.Addr{}, err
	}
	seen, err := netip.ParseAddrPort(string(text))
	return seen.Addr(), err
}

func TestPodsReachPodsAndNodesInBothFamilies(t *testing.T) {
	one, two := newNodes(t)
	if err := errors.Join(one.SetNodes(two.via()), two.SetNodes(one.via())); err != nil {
		t.Fatal(err)
	}
	a, b, c := one.pod(t), one.pod(t), two.pod(t)
	for f, family := range []string{"IPv4", "IPv6"} {
		for _, d := range []struct {
			what     string
			from, to *lab.Namespace
			source   netip.Addr
			addr     netip.Addr
		}{
			{"a pod to itself", a.ns, a.ns, a.addresses[f], a.addresses[f]},
			{"a pod to its neighbour", a.ns, b.ns, a.addresses[f], b.addresses[f]},
			{"a pod to one on another node", a.ns, c.ns, a.addresses[f], c.addresses[f]},
			{"a pod to its node", a.ns, one.ns, a.addresses[f], one.cfg.NodeIPs[f]},
			{"a pod to another node", a.ns, two.ns, a.addresses[f], two.cfg.NodeIPs[f]},
			{"a node to its pod", one.ns, a.ns, one.cfg.NodeIPs[f], a.addresses[f]},
			{"a node to another's pod", one.ns, c.ns, one.cfg.NodeIPs[f], c.addresses[f]},
		} {
			seen, err := caller(t, d.from, d.to, d.addr)
			if err != nil || seen != d.source {
				t.Errorf("%s, %s: seen as %s, want %s (%v)", d.what, family, seen, d.source, err)
			}
		}
	}
}

func TestRoutesFollowTheNodes(t *testing.T) {
	one, two := newNodes(t)
	if err := errors.Join(one.SetNodes(two.via()), two.SetNodes(one.via())); err != nil {
		t.Fatal(err)
	}
	a, c := one.pod(t), two.pod(t)
	if err := one.SetNodes(nil); err != nil {
		t.Fatal(err)
	}
	for _, addr := range c.addresses {
		if _, err := caller(t, a.ns, c.ns, addr); err == nil {
			t.Errorf("%s is reached though its node is gone", addr)
		}
	}
	// The range moves to another gateway, and back.
	moved := map[netip.Prefix]netip.Addr{two.cfg.PodCIDRs[0]: netip.MustParseAddr("172.20.0.99")}
	if err := errors.Join(one.SetNodes(moved), one.SetNodes(two.via())); err != nil {
		t.Fatal(err)
	}
	for f, addr := range c.addresses {
		if seen, err := caller(t, a.ns, c.ns, addr); err != nil || seen != a.addresses[f] {
			t.Errorf("%s: %s %v", addr, seen, err)
		}
	}
}

func TestRestartFindsAddresses(t *testing.T) {
	one, _ := newNodes(t)
	a := one.pod(t)
	again, err := New(one.cfg)
	if err != nil {
		t.Fatal(err)
	}
	again.Adopt(a.dir)
	if got, err := again.Attach(a.dir, a.uid, a.path()); err != nil || !slices.Equal(got, a.addresses) {
		t.Errorf("after a restart %v, before %v (%v)", got, a.addresses, err)
	}
	if !slices.Equal(Addresses(a.dir), a.addresses) {
		t.Errorf("the pod's directory says %v", Addresses(a.dir))
	}
	one.Network = again
	b := one.pod(t)
	if b.addresses[0] == a.addresses[0] {
		t.Errorf("two pods have %s", b.addresses[0])
	}
	if seen, err := caller(t, b.ns, a.ns, a.addresses[0]); err != nil || seen != b.addresses[0] {
		t.Errorf("%s %v", seen, err)
	}
}

func TestDetachLeavesNothing(t *testing.T) {
	one, _ := newNodes(t)
	a := one.pod(t)
	for range 2 { // the second has nothing to do
		if err := one.Detach(a.dir); err != nil {
			t.Fatal(err)
		}
	}
	h, err := one.ns.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := h.LinkByName(linkName(a.uid)); err == nil {
		t.Error("the link is still there")
	}
	if _, err := os.Stat(filepath.Join(a.dir, "network.json")); err == nil {
		t.Error("the pod's directory still speaks of a network")
	}
	if b := one.pod(t); b.addresses[0] == a.addresses[0] {
		t.Errorf("%s is given out again at once", b.addresses[0])
	}
}
