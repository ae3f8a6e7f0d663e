package relay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"viaduct.dev/viaduct/internal/relay"
)

// start runs a relay for the length of the test.
func start(t *testing.T, run func(ctx context.Context)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Error("the relay does not end")
		}
	})
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func to(network, address string) relay.Dial {
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
}

func TestBothDirectionsAndTheirEndsAreCarried(t *testing.T) {
	server, front := listen(t), listen(t)
	go func() {
		conn, err := server.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		all, _ := io.ReadAll(conn) // needs the caller's half close
		fmt.Fprintf(conn, "got %s", all)
	}()
	start(t, func(ctx context.Context) { relay.TCP(ctx, front, to("tcp", server.Addr().String())) })
	conn, err := net.Dial("tcp", front.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "hello")
	conn.(*net.TCPConn).CloseWrite()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if answer, err := io.ReadAll(conn); err != nil || string(answer) != "got hello" {
		t.Errorf("%q, %v", answer, err)
	}
}

func TestACallerOfNobodyIsReset(t *testing.T) {
	front := listen(t)
	start(t, func(ctx context.Context) {
		relay.TCP(ctx, front, func(context.Context) (net.Conn, error) { return nil, errors.New("nobody") })
	})
	conn, err := net.Dial("tcp", front.Addr().String())
	if err == nil { // the reset may come before the dialler has looked
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
}

func TestOpenConnectionsEndWithTheRelay(t *testing.T) {
	server, front := listen(t), listen(t)
	go server.Accept()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); relay.TCP(ctx, front, to("tcp", server.Addr().String())) }()
	conn, err := net.Dial("tcp", front.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("the relay does not end")
	}
}

func TestAConnectionOutlivesTheListener(t *testing.T) {
	server, front := listen(t), listen(t)
	go func() {
		conn, err := server.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		io.Copy(conn, conn)
	}()
	start(t, func(ctx context.Context) { relay.TCP(ctx, front, to("tcp", server.Addr().String())) })
	conn, err := net.Dial("tcp", front.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	for _, line := range []string{"before", "behind"} {
		io.WriteString(conn, line)
		back := make([]byte, len(line))
		if _, err := io.ReadFull(conn, back); err != nil || string(back) != line {
			t.Fatalf("%q, %v", back, err)
		}
		front.Close()
	}
}

func TestEachUDPCallerHasItsOwnFlow(t *testing.T) {
	server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := server.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			server.WriteToUDPAddrPort(fmt.Appendf(nil, "%s from %d", buf[:n], from.Port()), from)
		}
	}()
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	start(t, func(ctx context.Context) { relay.UDP(ctx, front, to("udp", server.LocalAddr().String())) })
	ask := func(conn net.Conn) string {
		t.Helper()
		io.WriteString(conn, "hello")
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 1500)
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	caller := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("udp", front.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	a, b := caller(), caller()
	first := ask(a)
	if again := ask(a); again != first {
		t.Errorf("one caller, two flows: %q, %q", first, again)
	}
	if other := ask(b); other == first {
		t.Errorf("two callers, one flow: %q", other)
	}
}
