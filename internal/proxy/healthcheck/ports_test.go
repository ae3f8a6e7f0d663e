package healthcheck_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"viaduct.dev/viaduct/internal/proxy/healthcheck"
	"viaduct.dev/viaduct/internal/servicetable"
)

func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx, cancel
}

// lines hands on what is logged.
type lines chan<- string

func (l lines) Write(b []byte) (int, error) {
	select {
	case l <- string(b):
	default:
	}
	return len(b), nil
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.After(15 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatal("it did not happen in 15 s")
		case <-tick.C:
		}
	}
}

// freePort is one that nobody has on any loopback address.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

var (
	one = netip.MustParseAddr("127.0.0.1")
	two = netip.MustParseAddr("127.0.0.2")
	web = types.NamespacedName{Namespace: "default", Name: "web"}
)

// ask is such as "200 weight 2", or "nobody".
func ask(t *testing.T, a netip.Addr, port uint16) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + netip.AddrPortFrom(a, port).String() + "/")
	if err != nil {
		return "nobody"
	}
	defer resp.Body.Close()
	return fmt.Sprintf("%d weight %s", resp.StatusCode, resp.Header.Get("X-Load-Balancing-Endpoint-Weight"))
}

// newPorts answers on both addresses.
func newPorts(t *testing.T, healthy func() bool) *healthcheck.Ports {
	t.Helper()
	p := healthcheck.NewPorts(healthy, slog.New(slog.NewTextHandler(t.Output(), nil)))
	t.Cleanup(p.Close)
	if errs := p.SetAddresses([]netip.Addr{one, two}); errs != nil {
		t.Fatal(errs)
	}
	return p
}

func yes() bool { return true }

// Row healthCheckNodePort (features.md 1.1).
func TestAServicesPortSaysHowManyEndpointsAreReadyHere(t *testing.T) {
	var unhealthy atomic.Bool
	p := newPorts(t, func() bool { return !unhealthy.Load() })
	port := freePort(t)
	set := func(port uint16, local int) {
		t.Helper()
		if err := p.Set(servicetable.HealthChange{Service: web, Port: port, Local: local}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(want string) {
		t.Helper()
		for _, a := range []netip.Addr{one, two} {
			if got := ask(t, a, port); got != want {
				t.Errorf("%s says %s, want %s", a, got, want)
			}
		}
	}
	set(port, 0)
	want("503 weight 0")
	set(port, 2)
	want("200 weight 2")
	unhealthy.Store(true)
	want("503 weight 2")
	unhealthy.Store(false)
	set(port, 0)
	want("503 weight 0")
	other := freePort(t)
	set(other, 1)
	want("nobody")
	port = other
	want("200 weight 1")
	set(0, 0)
	want("nobody")
}

// The text is kube-proxy's, to the byte.
func TestTheServicesAnswerReadsAsKubeProxys(t *testing.T) {
	p := newPorts(t, yes)
	port := freePort(t)
	if err := p.Set(servicetable.HealthChange{Service: web, Port: port, Local: 3}); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + netip.AddrPortFrom(one, port).String() + "/healthz?any=path")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	want := `{
	"service": {
		"namespace": "default",
		"name": "web"
	},
	"localEndpoints": 3,
	"serviceProxyHealthy": true
}`
	if string(body) != want {
		t.Errorf("%q, want %q", body, want)
	}
	h := resp.Header
	if h.Get("Content-Type") != "application/json" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("X-Load-Balancing-Endpoint-Weight") != "3" {
		t.Errorf("header %v", h)
	}
}

func TestTheNodesAddressesMayChange(t *testing.T) {
	p := newPorts(t, yes)
	port := freePort(t)
	if err := p.Set(servicetable.HealthChange{Service: web, Port: port, Local: 1}); err != nil {
		t.Fatal(err)
	}
	kept, err := net.Dial("tcp", netip.AddrPortFrom(two, port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	three := netip.MustParseAddr("127.0.0.3")
	if errs := p.SetAddresses([]netip.Addr{two, three}); errs != nil {
		t.Fatal(errs)
	}
	for a, want := range map[netip.Addr]string{one: "nobody", two: "200 weight 1", three: "200 weight 1"} {
		if got := ask(t, a, port); got != want {
			t.Errorf("%s says %s, want %s", a, got, want)
		}
	}
	// Who was connected to an address that stayed still is.
	fmt.Fprintf(kept, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	kept.SetDeadline(time.Now().Add(5 * time.Second))
	if first := make([]byte, 12); readFull(kept, first) != nil || string(first) != "HTTP/1.1 200" {
		t.Errorf("%q", first)
	}
}

func readFull(r io.Reader, b []byte) error { _, err := io.ReadFull(r, b); return err }

func TestATakenPortIsToldOnceAndTriedAgain(t *testing.T) {
	p := newPorts(t, yes)
	taken, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := uint16(taken.Addr().(*net.TCPAddr).Port)
	change := servicetable.HealthChange{Service: web, Port: port, Local: 1}
	err = p.Set(change)
	var told *healthcheck.TakenError
	if !errors.As(err, &told) || told.Service != web || told.Port != port || !strings.Contains(err.Error(), "address already in use") {
		t.Fatalf("%v", err)
	}
	if got := ask(t, one, port); got != "200 weight 1" {
		t.Errorf("the address that was free says %s", got)
	}
	if err := p.Set(change); err != nil {
		t.Errorf("told again: %v", err)
	}
	if p.Retry(); !p.Missing() {
		t.Error("nothing is missing while another program has the port")
	}
	taken.Close()
	if p.Retry(); p.Missing() {
		t.Error("something is missing")
	}
	if got := ask(t, two, port); got != "200 weight 1" {
		t.Errorf("the address that was taken says %s", got)
	}
}
