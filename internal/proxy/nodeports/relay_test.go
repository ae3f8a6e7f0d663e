package nodeports_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"viaduct.dev/viaduct/internal/lab"
	"viaduct.dev/viaduct/internal/lab/labtest"
	"viaduct.dev/viaduct/internal/proxy/nodeports"
	"viaduct.dev/viaduct/internal/servicetable"
)

var (
	nodes = [2]netip.Addr{netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("2001:db8::11")}
	every = [2]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.After(15 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatal("it did not happen in 15 s")
		case <-tick.C:
		}
	}
}

// node is a host with the relay, and what stands for the rules: servers at the
// node ports of its addresses.
type node struct {
	*lab.Namespace
	relay   *nodeports.Relay
	open    atomic.Value // [2]int
	refused chan servicetable.Frontend
}

func newNode(t *testing.T) *node {
	n := &node{Namespace: labtest.New(t), refused: make(chan servicetable.Frontend, 10)}
	other := labtest.New(t)
	must(t, lab.Connect(n.Namespace, "eth0", other, "eth0"))
	must(t, n.AddAddress("eth0", netip.MustParsePrefix("192.0.2.11/24")))
	must(t, n.AddAddress("eth0", netip.MustParsePrefix("2001:db8::11/64")))
	n.open.Store([2]int{})
	n.relay = nodeports.New(nodeports.Config{
		Net: n.Namespace, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Changed: func(open [2]int) { n.open.Store(open) },
		Refused: func(f servicetable.Frontend, err error) {
			if errors.Is(err, syscall.EADDRINUSE) {
				n.refused <- f
			}
		},
	})
	n.relay.SetAddresses([]netip.Addr{nodeports.Loopback[0], nodes[0], nodes[1]})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.relay.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			must(t, err)
		case <-time.After(10 * time.Second):
			t.Error("the relay does not end")
		}
	})
	return n
}

// port says what becomes of a node port in both families, and waits until so
// many are open.
func (n *node) port(t *testing.T, number uint16, p servicetable.Protocol, v servicetable.Verdict, open int) {
	t.Helper()
	var d servicetable.Diff
	for _, a := range every {
		c := servicetable.FrontendChange{Frontend: servicetable.Frontend{Addr: a, Port: number, Protocol: p}}
		c.New.Internal.Verdict = v
		d.Frontends = append(d.Frontends, c)
	}
	n.relay.Follow(&d)
	await(t, func() bool { return n.open.Load() == [2]int{open, open} })
}

// serve answers at a node port of both families, once callers have ended.
func (n *node) serve(t *testing.T, number uint16) {
	for _, a := range nodes {
		l, err := n.Listen(t.Context(), "tcp", netip.AddrPortFrom(a, number).String())
		must(t, err)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					all, _ := io.ReadAll(c) // ends with the caller's half
					fmt.Fprintf(c, "got %s", all)
				}()
			}
		}()
		u, err := n.ListenPacket(t.Context(), "udp", netip.AddrPortFrom(a, number).String())
		must(t, err)
		t.Cleanup(func() { u.Close() })
		go func() {
			buf := make([]byte, 2000)
			for {
				size, from, err := u.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = u.WriteTo(fmt.Appendf(nil, "got %s", buf[:size]), from)
			}
		}()
	}
}

// ask says hello on a loopback address.
func (n *node) ask(t *testing.T, network string, at netip.Addr, number uint16) (string, error) {
	c, err := n.DialContext(t.Context(), network, netip.AddrPortFrom(at, number).String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
	if _, err := io.WriteString(c, "hello"); err != nil {
		return "", err
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		if err := tcp.CloseWrite(); err != nil {
			return "", err
		}
		all, err := io.ReadAll(c)
		return string(all), err
	}
	buf := make([]byte, 2000)
	size, err := c.Read(buf)
	return string(buf[:size]), err
}

// Row localhost NodePort (features.md 1.5).
func TestNodePortsAreOfferedOnLoopback(t *testing.T) {
	n := newNode(t)
	n.serve(t, 30080)
	n.port(t, 30080, servicetable.TCP, servicetable.Serve, 1)
	n.port(t, 30080, servicetable.UDP, servicetable.Serve, 2)
	for _, a := range nodeports.Loopback {
		for _, network := range []string{"tcp", "udp"} {
			if got, err := n.ask(t, network, a, 30080); got != "got hello" || err != nil {
				t.Errorf("%s %s: %q, %v", network, a, got, err)
			}
		}
	}
}

func TestAPortThatNobodyServesIsRefusedAtOnce(t *testing.T) {
	n := newNode(t)
	n.serve(t, 30080)
	for _, protocol := range []servicetable.Protocol{servicetable.TCP, servicetable.UDP} {
		for _, verdict := range []servicetable.Verdict{servicetable.Refuse, servicetable.Drop, servicetable.None} {
			n.port(t, 30080, protocol, servicetable.Serve, 1)
			n.port(t, 30080, protocol, verdict, 0)
			for _, a := range nodeports.Loopback {
				if got, err := n.ask(t, protocol.String(), a, 30080); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%s %s, verdict %d: %q, %v", protocol, a, verdict, got, err)
				}
			}
		}
	}
}

// The last endpoint goes before the port is closed.
func TestACallerWhoComesTooLateIsReset(t *testing.T) {
	n := newNode(t)
	n.port(t, 30080, servicetable.TCP, servicetable.Serve, 1)
	for _, a := range nodeports.Loopback {
		if got, err := n.ask(t, "tcp", a, 30080); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ENOTCONN) {
			t.Errorf("%s: %q, %v", a, got, err)
		}
	}
}

func TestConnectionsOutliveTheirPort(t *testing.T) {
	n := newNode(t)
	n.serve(t, 30080)
	n.port(t, 30080, servicetable.TCP, servicetable.Serve, 1)
	c, err := n.DialContext(t.Context(), "tcp", "127.0.0.1:30080")
	must(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "one")
	must(t, err)
	// It is relayed when it has been accepted, which a later one shows.
	if _, err := n.ask(t, "tcp", nodeports.Loopback[0], 30080); err != nil {
		t.Fatal(err)
	}
	n.port(t, 30080, servicetable.TCP, servicetable.Refuse, 0)
	n.port(t, 30080, servicetable.TCP, servicetable.Serve, 1)
	_, err = io.WriteString(c, " two")
	must(t, err)
	must(t, c.(*net.TCPConn).CloseWrite())
	must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
	if all, err := io.ReadAll(c); string(all) != "got one two" || err != nil {
		t.Errorf("%q, %v", all, err)
	}
}

func TestAPortThatAnotherProgramHasIsToldOnceAndTriedAgain(t *testing.T) {
	n := newNode(t)
	n.serve(t, 30080)
	taken, err := n.Listen(t.Context(), "tcp", "127.0.0.1:30080")
	must(t, err)
	defer taken.Close()
	var d servicetable.Diff
	for _, a := range every {
		c := servicetable.FrontendChange{Frontend: servicetable.Frontend{Addr: a, Port: 30080, Protocol: servicetable.TCP}}
		c.New.Internal.Verdict = servicetable.Serve
		d.Frontends = append(d.Frontends, c)
	}
	n.relay.Replace(&d)
	select {
	case f := <-n.refused:
		if f.Addr != every[0] || f.Port != 30080 {
			t.Error(f)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("nobody is told")
	}
	await(t, func() bool { return n.open.Load() == [2]int{0, 1} })
	if got, err := n.ask(t, "tcp", nodeports.Loopback[1], 30080); got != "got hello" || err != nil {
		t.Errorf("the other family: %q, %v", got, err)
	}
	taken.Close()
	await(t, func() bool { return n.open.Load() == [2]int{1, 1} })
	if len(n.refused) > 0 {
		t.Error("told again")
	}
	// Somebody else's port is not kept from them when it is not wanted any more.
	n.relay.Replace(&servicetable.Diff{})
	await(t, func() bool { return n.open.Load() == [2]int{0, 0} })
	taken, err = n.Listen(t.Context(), "tcp", "127.0.0.1:30080")
	must(t, err)
	taken.Close()
}

func TestTheNodesAddressMayChange(t *testing.T) {
	n := newNode(t)
	n.serve(t, 30080)
	n.port(t, 30080, servicetable.TCP, servicetable.Serve, 1)
	n.relay.SetAddresses([]netip.Addr{nodes[1]}) // none of IPv4
	await(t, func() bool { return n.open.Load() == [2]int{0, 1} })
	n.relay.SetAddresses(nodes[:])
	await(t, func() bool { return n.open.Load() == [2]int{1, 1} })
	if got, err := n.ask(t, "tcp", nodeports.Loopback[0], 30080); got != "got hello" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}
