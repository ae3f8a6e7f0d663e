package nftables

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"viaduct.dev/viaduct/internal/lab"
	"viaduct.dev/viaduct/internal/lab/labtest"
	"viaduct.dev/viaduct/internal/servicetable"
)

// site is a node with a Pod, a host outside, and a host with the addresses
// 10.244.9.10 to .39 and fd00:10:244:9::10 to ::39 of Pods elsewhere:
//
//	pod --- node --- outside
//	          `----- far
type site struct {
	node, pod, outside, far *lab.Namespace
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newSite(t testing.TB) *site {
	s := &site{labtest.New(t), labtest.New(t), labtest.New(t), labtest.New(t)}
	for key, value := range map[string]string{
		"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1",
		"net.ipv4.conf.all.rp_filter": "0", "net.ipv4.conf.default.rp_filter": "0",
		"net.ipv4.conf.all.send_redirects": "0", "net.ipv4.conf.default.send_redirects": "0",
	} {
		must(t, s.node.Sysctl(key, value))
	}
	join := func(other *lab.Namespace, link, v4, v6, node4, node6 string) {
		must(t, lab.Connect(s.node, link, other, "eth0"))
		for _, a := range []struct {
			ns         *lab.Namespace
			link, addr string
		}{{s.node, link, node4}, {s.node, link, node6}, {other, "eth0", v4}, {other, "eth0", v6}} {
			must(t, a.ns.AddAddress(a.link, netip.MustParsePrefix(a.addr)))
		}
		must(t, other.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix(node4).Addr()))
		must(t, other.AddRoute(netip.MustParsePrefix("::/0"), netip.MustParsePrefix(node6).Addr()))
	}
	join(s.outside, "eth0", "172.20.0.200/24", "fd00:172:20::c8/64", "172.20.0.11/24", "fd00:172:20::11/64")
	join(s.pod, "pod0", "10.244.0.2/24", "fd00:10:244::2/112", "10.244.0.1/24", "fd00:10:244::1/112")
	join(s.far, "far0", "10.244.9.2/24", "fd00:10:244:9::2/64", "10.244.9.1/24", "fd00:10:244:9::1/64")
	for i := 10; i < 40; i++ {
		must(t, s.far.AddAddress("eth0", netip.MustParsePrefix(fmt.Sprintf("10.244.9.%d/24", i))))
		must(t, s.far.AddAddress("eth0", netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:9::%d/64", i))))
	}
	// The node's own connections are translated after they were routed.
	must(t, s.node.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("172.20.0.200")))
	must(t, s.node.AddRoute(netip.MustParsePrefix("::/0"), netip.MustParseAddr("fd00:172:20::c8")))
	for _, at := range []string{"0.0.0.0:8080", "[::]:8080"} {
		l, err := s.far.Listen(t.Context(), map[bool]string{true: "tcp4", false: "tcp6"}[at[0] == '0'], at)
		must(t, err)
		t.Cleanup(func() { l.Close() })
		go answer(l)
	}
	return s
}

// answer says to each caller which address it has reached and which it has, and
// then repeats what it hears.
func answer(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			local, remote := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
			fmt.Fprintf(c, "%s %s\n", local.Addr().Unmap(), remote.Addr().Unmap())
			buf := make([]byte, 1000)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				c.Write(buf[:n])
			}
		}()
	}
}

// greet connects before a SYN is sent again, and says what was reached and which
// address it saw.
func greet(from *lab.Namespace, to string) (c net.Conn, reached, saw string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 900*time.Millisecond)
	defer cancel()
	if c, err = from.DialContext(ctx, "tcp", to); err != nil {
		return nil, "", "", err
	}
	c.SetDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 200)
	n, err := c.Read(buf)
	if err != nil {
		c.Close()
		return nil, "", "", err
	}
	reached, saw, _ = strings.Cut(strings.TrimSpace(string(buf[:n])), " ")
	c.(*net.TCPConn).SetLinger(0)
	return c, reached, saw, nil
}

// reach is what answers.
func reach(from *lab.Namespace, to string) (reached, saw string, err error) {
	c, reached, saw, err := greet(from, to)
	if err == nil {
		c.Close()
	}
	return reached, saw, err
}

// echoes says whether a connection still lives.
func echoes(c net.Conn) error {
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte("still there?")); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 100))
	return err
}

func tcp(addr string) servicetable.Frontend {
	ap := netip.MustParseAddrPort(addr)
	return servicetable.Frontend{Addr: ap.Addr(), Port: ap.Port(), Protocol: servicetable.TCP}
}

// serves is a Diff by which frontends lead to the backends far:8080 with these
// last numbers, through one pool for each family.
func serves(number servicetable.PoolID, hide servicetable.Hide, hosts []int, frontends ...string) *servicetable.Diff {
	d := &servicetable.Diff{}
	used := map[servicetable.PoolID]string{}
	for _, at := range frontends {
		f := tcp(at)
		pool, subnet := number, "10.244.9.%d:8080"
		if f.Addr.Is6() {
			pool, subnet = number+1, "[fd00:10:244:9::%d]:8080"
		}
		used[pool] = subnet
		v := servicetable.View{Verdict: servicetable.Serve, Pool: pool, Size: uint32(len(hosts))}
		d.Frontends = append(d.Frontends, servicetable.FrontendChange{Frontend: f, New: servicetable.Target{Service: "default/web:http", Internal: v, External: v, Hide: hide}})
	}
	for pool, subnet := range used {
		for slot, host := range hosts {
			d.Slots = append(d.Slots, servicetable.SlotChange{Pool: pool, Slot: uint32(slot), New: netip.MustParseAddrPort(fmt.Sprintf(subnet, host))})
		}
	}
	return d
}

// verdicts is a Diff by which frontends have no pool.
func verdicts(internal, external servicetable.Verdict, frontends ...string) *servicetable.Diff {
	d := &servicetable.Diff{}
	for _, at := range frontends {
		d.Frontends = append(d.Frontends, servicetable.FrontendChange{Frontend: tcp(at), New: servicetable.Target{
			Service: "default/none:http", Internal: servicetable.View{Verdict: internal}, External: servicetable.View{Verdict: external}, Hide: servicetable.HideNode,
		}})
	}
	return d
}

func openWith(t testing.TB, ns *lab.Namespace, cfg Config, n Node) *Sink {
	t.Helper()
	var s *Sink
	must(t, ns.Do(func() (err error) { s, _, err = Open(cfg, n); return err }))
	return s
}

// await waits for a condition.
func await(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("%s: not within %s", what, within)
		case <-tick.C:
		}
	}
}

// tryNFT runs nft where it may fail.
func tryNFT(ns *lab.Namespace, args ...string) (string, error) {
	var out strings.Builder
	cmd := exec.Command("nft", args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := ns.Start(cmd); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}
