package supervisor

import (
	"fmt"
	"log/slog"
	"net"
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

func TestOnlyUpstreamServersAreDialled(t *testing.T) {
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	s := &supervisor{}
	s.cfg.Spec.DNSUpstream = udp.LocalAddr().String()
	file, err := s.dial(t.Context(), link.Dial{Network: "udp", Address: s.cfg.Spec.DNSUpstream})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	udp.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 10)
	if n, _, err := udp.ReadFrom(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	for _, d := range []link.Dial{{Network: "udp", Address: "127.0.0.1:1"}, {Network: "unix", Address: s.cfg.Spec.DNSUpstream}} {
		if _, err := s.dial(t.Context(), d); err == nil || !strings.Contains(err.Error(), "no upstream") {
			t.Errorf("%+v: %v", d, err)
		}
	}
}
