package supervisor

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"viaduct.dev/viaduct/internal/cluster/control"
	"viaduct.dev/viaduct/internal/cluster/link"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestPortsTakeTheSameNumberWhereItIsFree(t *testing.T) {
	p := newPorts(quiet())
	t.Cleanup(p.closeAll)
	for _, protocol := range []string{"TCP", "UDP"} {
		free := freePort(t)
		one, f := p.open(link.Port{Service: "ns/one:80", Protocol: protocol, Port: free}, 1)
		if f == nil || one.HostPort != free {
			t.Errorf("%s %d was free: %+v", protocol, free, one)
		}
		two, f := p.open(link.Port{Service: "ns/two:80", Protocol: protocol, Port: free}, 1)
		if f == nil || two.HostPort == free || two.HostPort == 0 {
			t.Errorf("%s %d was taken: %+v", protocol, free, two)
		}
	}
	refused, f := p.open(link.Port{Service: "ns/s:80", Protocol: "SCTP", Port: 80}, 1)
	if f != nil || refused.Error == "" {
		t.Errorf("SCTP: %+v", refused)
	}
	if all := p.list(); len(all) != 5 || all[0].Service != "ns/one:80" {
		t.Errorf("listed: %+v", all)
	}
}

func TestPortsOutliveTheProcessThatAskedForThem(t *testing.T) {
	p := newPorts(quiet())
	t.Cleanup(p.closeAll)
	kept := link.Port{Service: "ns/kept:80", Protocol: "TCP", Port: freePort(t)}
	dropped := link.Port{Service: "ns/dropped:80", Protocol: "TCP", Port: freePort(t)}
	first := p.session()
	before, _ := p.open(kept, first)
	p.open(dropped, first)

	second := p.session()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", before.HostPort)) // waits in the backlog
	if err != nil {
		t.Fatalf("while the process is away: %v", err)
	}
	defer conn.Close()
	after, f := p.open(kept, second)
	if f == nil || after.HostPort != before.HostPort {
		t.Errorf("was %+v, is %+v", before, after)
	}
	p.closeOlder(second)
	if all := p.list(); len(all) != 1 || all[0].Service != kept.Service {
		t.Errorf("left: %+v", all)
	}
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func TestFollowersSeeWhatWasBeforeThemAndTheEnd(t *testing.T) {
	for name, c := range map[string]struct {
		finish func(*events)
		want   string
	}{
		"ready":  {func(e *events) { e.setReady(true) }, "one two ready"},
		"failed": {func(e *events) { e.add(control.Event{Error: "broken"}) }, "one two broken"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEvents()
			e.add(control.Event{Step: "one"})
			seen := make(chan string, 10)
			ended := make(chan error, 1)
			go func() {
				ended <- e.follow(t.Context(), func(ev control.Event) error {
					word := ev.Step + ev.Error
					if ev.Ready {
						word = "ready"
					}
					seen <- word
					return nil
				})
			}()
			got := []string{<-seen}
			e.add(control.Event{Step: "two"})
			c.finish(e)
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			close(seen)
			for word := range seen {
				got = append(got, word)
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("saw %q, want %q", s, c.want)
			}
		})
	}
}

func TestNameserversOfAResolvConf(t *testing.T) {
	const text = "# nameserver 1.1.1.1\nsearch x\nnameserver 192.0.2.1\nnameserver\nnameserver nonsense\n nameserver 2001:db8::1 # second\n"
	if got := fmt.Sprint(nameservers(strings.NewReader(text))); got != "[192.0.2.1:53 [2001:db8::1]:53]" {
		t.Error(got)
	}
}

// upstream is a DNS server that answers each query by itself and a tail, first
// by UDP and truncated if it is told so.
func upstream(t *testing.T, truncate bool) netip.AddrPort {
	t.Helper()
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close() })
	at := udp.LocalAddr().(*net.UDPAddr).AddrPort()
	tcp, err := net.Listen("tcp4", at.String())
	if err != nil {
		t.Skipf("the port is free for UDP and not for TCP: %v", err)
	}
	t.Cleanup(func() { tcp.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			udp.WriteToUDPAddrPort([]byte("another query's answer"), from)
			answer := append([]byte{}, buf[:n]...)
			if truncate {
				answer[2] |= truncated
			} else {
				answer = append(answer, "by udp"...)
			}
			udp.WriteToUDPAddrPort(answer, from)
		}
	}()
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			var length [2]byte
			io.ReadFull(conn, length[:])
			query := make([]byte, binary.BigEndian.Uint16(length[:]))
			io.ReadFull(conn, query)
			answer := append(query, "by tcp"...)
			conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
			conn.Close()
		}
	}()
	return at
}

func TestQueriesGoToTheUpstreamThatAnswers(t *testing.T) {
	dead, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := dead.LocalAddr().String()
	dead.Close()
	query := []byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00question")
	for name, c := range map[string]struct {
		truncate bool
		want     string
	}{
		"by UDP":                        {false, "questionby udp"},
		"by TCP, where UDP has no room": {true, "questionby tcp"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &supervisor{}
			s.cfg.Spec.DNSUpstream = nobody + "," + upstream(t, c.truncate).String()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			answer, err := s.askUpstream(ctx, query)
			if err != nil || !strings.HasSuffix(string(answer), c.want) {
				t.Errorf("%q, %v", answer, err)
			}
		})
	}
	s := &supervisor{}
	if _, err := s.askUpstream(t.Context(), query); err == nil || !strings.Contains(err.Error(), "--dns-upstream") {
		t.Errorf("without an upstream: %v", err)
	}
}
