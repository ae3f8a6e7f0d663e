package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"viaduct.dev/viaduct/internal/dns/zone"
)

// serve runs a server on the loopback and gives its port.
func serve(t *testing.T, change func(*Config), objects ...runtime.Object) int {
	t.Helper()
	port := freePort(t)
	cfg := Config{
		Informers: informers.NewSharedInformerFactory(fake.NewClientset(objects...), 0), Domain: "cluster.local",
		Listen:       []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}, Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	up := make(chan bool, 2)
	cfg.OnListening = func(is bool) { up <- is }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-up:
	case err := <-done:
		done <- err
		t.Fatal(err)
	}
	return port
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func objects() []runtime.Object {
	all := []runtime.Object{
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7"}}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "big"}, Spec: corev1.ServiceSpec{ClusterIP: "None"}},
	}
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "big-1", Labels: map[string]string{discoveryv1.LabelServiceName: "big"}}, AddressType: "IPv4"}
	for i := range 200 {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.244.1.%d", i)}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}})
	}
	return append(all, s)
}

func ask(t *testing.T, port int, network, name string, qtype uint16, change func(*mdns.Msg)) *mdns.Msg {
	t.Helper()
	q := new(mdns.Msg)
	q.SetQuestion(name, qtype)
	if change != nil {
		change(q)
	}
	c := &mdns.Client{Net: network, Timeout: 3 * time.Second}
	m, _, err := c.Exchange(q, fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return m
}

func TestServerAnswers(t *testing.T) {
	port := serve(t, nil, objects()...)
	for _, network := range []string{"udp", "tcp"} {
		m := ask(t, port, network, "WEB.default.SVC.cluster.local.", mdns.TypeA, nil)
		if len(m.Answer) != 1 || !m.Authoritative || m.RecursionAvailable || m.Answer[0].String() != "WEB.default.SVC.cluster.local.\t30\tIN\tA\t10.96.0.7" {
			t.Errorf("%s: %s", network, m)
		}
	}
	for name, rcode := range map[string]int{
		"none.default.svc.cluster.local.": mdns.RcodeNameError,
		"default.svc.cluster.local.":      mdns.RcodeSuccess,
		"www.example.com.":                mdns.RcodeRefused,
		"9.9.96.10.in-addr.arpa.":         mdns.RcodeNameError,
		"9.9.9.9.in-addr.arpa.":           mdns.RcodeRefused,
	} {
		m := ask(t, port, "udp", name, mdns.TypeA, nil)
		if m.Rcode != rcode || len(m.Answer) > 0 || rcode != mdns.RcodeRefused && len(m.Ns) != 1 {
			t.Errorf("%s: %s", name, m)
		}
	}
	m := ask(t, port, "udp", "7.0.96.10.in-addr.arpa.", mdns.TypePTR, nil)
	if len(m.Answer) != 1 || m.Answer[0].(*mdns.PTR).Ptr != "web.default.svc.cluster.local." {
		t.Errorf("reverse: %s", m)
	}
	m = ask(t, port, "udp", "web.default.svc.cluster.local.", mdns.TypeANY, nil)
	if len(m.Answer) != 1 || m.Answer[0].Header().Rrtype != mdns.TypeHINFO {
		t.Errorf("ANY: %s", m)
	}
}

// size is a message's length in bytes as it was sent.
func size(m *mdns.Msg) int {
	m.Compress = true
	return m.Len()
}

func TestLargeAnswersAreTruncatedAndWholeOverTCP(t *testing.T) {
	port := serve(t, nil, objects()...)
	small := ask(t, port, "udp", "big.default.svc.cluster.local.", mdns.TypeA, nil)
	if !small.Truncated || size(small) > 512 {
		t.Errorf("without EDNS: truncated %v, %d bytes", small.Truncated, size(small))
	}
	larger := ask(t, port, "udp", "big.default.svc.cluster.local.", mdns.TypeA, func(q *mdns.Msg) { q.SetEdns0(4096, false) })
	if !larger.Truncated || size(larger) > 1232 || len(larger.Answer) <= len(small.Answer) {
		t.Errorf("with EDNS: truncated %v, %d bytes, %d answers", larger.Truncated, size(larger), len(larger.Answer))
	}
	whole := ask(t, port, "tcp", "big.default.svc.cluster.local.", mdns.TypeA, nil)
	if whole.Truncated || len(whole.Answer) != 200 {
		t.Errorf("over TCP: truncated %v, %d answers", whole.Truncated, len(whole.Answer))
	}
}

func TestOtherNamesAreForwarded(t *testing.T) {
	dead, alive := freePort(t), freePort(t)
	upstream := &mdns.Server{Addr: fmt.Sprintf("127.0.0.1:%d", alive), Net: "udp", Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := new(mdns.Msg)
		m.SetReply(q)
		rr, _ := mdns.NewRR(q.Question[0].Name + " 5 IN A 192.0.2.9")
		m.Answer = []mdns.RR{rr}
		w.WriteMsg(m)
	})}
	started := make(chan struct{})
	upstream.NotifyStartedFunc = func() { close(started) }
	go upstream.ListenAndServe()
	<-started
	defer upstream.Shutdown()
	port := serve(t, func(c *Config) {
		for _, p := range []int{dead, alive} {
			c.Upstreams = append(c.Upstreams, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(p)))
		}
	}, objects()...)
	m := ask(t, port, "udp", "www.example.com.", mdns.TypeA, nil)
	if len(m.Answer) != 1 || m.Answer[0].(*mdns.A).A.String() != "192.0.2.9" {
		t.Errorf("%s", m)
	}
	if m := ask(t, port, "udp", "web.default.svc.cluster.local.", mdns.TypeA, nil); len(m.Answer) != 1 || !m.RecursionAvailable {
		t.Errorf("the cluster's own: %s", m)
	}
}

func TestDigUnderstandsIt(t *testing.T) {
	if _, err := exec.LookPath("dig"); err != nil {
		t.Skip("dig is not installed (Debian package bind9-dnsutils)")
	}
	port := serve(t, nil, objects()...)
	out, err := exec.Command("dig", "-p", fmt.Sprint(port), "@127.0.0.1", "+time=2", "+tries=1", "web.default.svc.cluster.local").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "status: NOERROR") || strings.Contains(string(out), "WARNING") && !strings.Contains(string(out), "recursion requested but not available") {
		t.Errorf("%v\n%s", err, out)
	}
}

// Whatever bytes come, an answer has the question's id, and there is no panic.
func FuzzRespond(f *testing.F) {
	q := new(mdns.Msg)
	q.SetQuestion("web.default.svc.cluster.local.", mdns.TypeA)
	packed, _ := q.Pack()
	f.Add(packed)
	s := &server{cfg: Config{Log: slog.New(slog.DiscardHandler)}, zone: testZone()}
	s.ready.Store(true)
	f.Fuzz(func(t *testing.T, packet []byte) {
		q := new(mdns.Msg)
		if q.Unpack(packet) != nil {
			return
		}
		m := s.respond(q, "udp")
		if m == nil {
			return
		}
		if m.Id != q.Id || !m.Response {
			t.Errorf("answer %d to question %d", m.Id, q.Id)
		}
		if _, err := m.Pack(); err != nil && len(q.Question) == 1 {
			t.Logf("not packed: %v", err)
		}
	})
}

func testZone() *zone.Zone {
	z := zone.New("cluster.local")
	for _, o := range objects() {
		switch o := o.(type) {
		case *corev1.Service:
			z.SetService(o)
		case *discoveryv1.EndpointSlice:
			z.SetSlice(o)
		}
	}
	return z
}
