package zone

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

func svc(namespace, name string, ips []string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ips[0], ClusterIPs: ips, Ports: ports},
	}
}

func externalName(namespace, name, target string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: target},
	}
}

// slice has endpoints written as ADDRESS, ADDRESS=HOSTNAME or !ADDRESS (not
// ready).
func epSlice(namespace, service, name string, port int32, endpoints ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		Ports:      []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: &port, Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for _, text := range endpoints {
		text, notReady := strings.CutPrefix(text, "!")
		addr, host, named := strings.Cut(text, "=")
		e := discoveryv1.Endpoint{Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(!notReady)}}
		if named {
			e.Hostname = &host
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// show writes an answer in the notation of zone files.
func show(a Answer) string {
	if !a.Exists {
		return "NXDOMAIN"
	}
	if len(a.Records) == 0 {
		return "NODATA"
	}
	line := func(r Record) string {
		switch r.Type {
		case A:
			return fmt.Sprintf("%s A %s", r.Name, r.Addr)
		case AAAA:
			return fmt.Sprintf("%s AAAA %s", r.Name, r.Addr)
		case SRV:
			return fmt.Sprintf("%s SRV 0 %d %d %s", r.Name, r.Weight, r.Port, r.Target)
		case CNAME:
			return fmt.Sprintf("%s CNAME %s", r.Name, r.Target)
		case PTR:
			return fmt.Sprintf("%s PTR %s", r.Name, r.Target)
		case NS:
			return fmt.Sprintf("%s NS %s", r.Name, r.Target)
		case TXT:
			return fmt.Sprintf("%s TXT %q", r.Name, r.Text)
		}
		return fmt.Sprintf("%s TYPE%d", r.Name, r.Type)
	}
	var lines []string
	for _, r := range a.Records {
		lines = append(lines, line(r))
	}
	for _, r := range a.Extra {
		lines = append(lines, "+ "+line(r))
	}
	return strings.Join(lines, "\n")
}

func example() *Zone {
	z := New("cluster.local")
	z.SetNamespace("empty")
	z.SetService(svc("default", "web", []string{"10.96.0.7", "fd00:10:96::7"}, corev1.ServicePort{Name: "http", Port: 80, Protocol: "TCP"}, corev1.ServicePort{Port: 81}))
	z.SetService(svc("default", "single", []string{"10.96.0.8"}))
	z.SetService(svc("default", "pods", []string{"None"}))
	z.SetSlice(epSlice("default", "pods", "pods-4", 5000, "10.244.0.5=zero", "10.244.0.6", "!10.244.0.7"))
	z.SetSlice(epSlice("default", "pods", "pods-6", 5000, "fd00:10:244::5=zero"))
	z.SetService(svc("default", "nobody", []string{"None"}))
	z.SetService(externalName("prod", "db", "My.Database.example.com"))
	z.SetService(externalName("prod", "alias", "web.default.svc.cluster.local"))
	z.SetService(externalName("prod", "loop", "loop.prod.svc.cluster.local"))
	return z
}

func TestAnswers(t *testing.T) {
	z := example()
	for _, c := range []struct {
		name  string
		qtype Type
		want  string
	}{
		// Section 2.3: Services with a cluster IP.
		{"web.default.svc", A, "web.default.svc.cluster.local. A 10.96.0.7"},
		{"web.default.svc", AAAA, "web.default.svc.cluster.local. AAAA fd00:10:96::7"},
		{"single.default.svc", AAAA, "NODATA"},
		{"web.default.svc", TXT, "NODATA"},
		{"_http._tcp.web.default.svc", SRV, "_http._tcp.web.default.svc.cluster.local. SRV 0 100 80 web.default.svc.cluster.local.\n" +
			"+ web.default.svc.cluster.local. A 10.96.0.7\n+ web.default.svc.cluster.local. AAAA fd00:10:96::7"},
		{"_http._tcp.web.default.svc", A, "NODATA"},
		{"_tcp.web.default.svc", A, "NODATA"},
		{"_http._udp.web.default.svc", SRV, "NXDOMAIN"},
		{"_dns._tcp.web.default.svc", SRV, "NXDOMAIN"},
		{"nothing.default.svc", A, "NXDOMAIN"},
		{"x.web.default.svc", A, "NXDOMAIN"},
		// Section 2.4: headless Services.
		{"pods.default.svc", A, "pods.default.svc.cluster.local. A 10.244.0.5\npods.default.svc.cluster.local. A 10.244.0.6"},
		{"pods.default.svc", AAAA, "pods.default.svc.cluster.local. AAAA fd00:10:244::5"},
		{"zero.pods.default.svc", A, "zero.pods.default.svc.cluster.local. A 10.244.0.5"},
		{"zero.pods.default.svc", AAAA, "zero.pods.default.svc.cluster.local. AAAA fd00:10:244::5"},
		{"10-244-0-6.pods.default.svc", A, "10-244-0-6.pods.default.svc.cluster.local. A 10.244.0.6"},
		{"10-244-0-7.pods.default.svc", A, "NXDOMAIN"},
		{"nobody.default.svc", A, "NXDOMAIN"},
		{"_http._tcp.pods.default.svc", SRV, "_http._tcp.pods.default.svc.cluster.local. SRV 0 50 5000 zero.pods.default.svc.cluster.local.\n" +
			"_http._tcp.pods.default.svc.cluster.local. SRV 0 50 5000 10-244-0-6.pods.default.svc.cluster.local.\n"},
		// Section 2.5: external names.
		{"db.prod.svc", A, "db.prod.svc.cluster.local. CNAME my.database.example.com."},
		{"db.prod.svc", CNAME, "db.prod.svc.cluster.local. CNAME my.database.example.com."},
		{"alias.prod.svc", A, "alias.prod.svc.cluster.local. CNAME web.default.svc.cluster.local.\nweb.default.svc.cluster.local. A 10.96.0.7"},
		{"x.db.prod.svc", A, "NXDOMAIN"},
		// Names that only have names below them (RFC 8020).
		{"default.svc", A, "NODATA"},
		{"empty.svc", A, "NODATA"},
		{"svc", A, "NODATA"},
		{"missing.svc", A, "NXDOMAIN"},
		{"", A, "NODATA"},
		{"", NS, "cluster.local. NS ns.dns.cluster.local."},
		{"elsewhere", A, "NXDOMAIN"},
		// Section 2.2.
		{"dns-version", TXT, `dns-version.cluster.local. TXT "1.1.0"`},
		{"dns-version", A, "NODATA"},
		// Pods by their addresses.
		{"10-244-0-99.default.pod", A, "10-244-0-99.default.pod.cluster.local. A 10.244.0.99"},
		{"fd00-10-244--9.default.pod", AAAA, "fd00-10-244--9.default.pod.cluster.local. AAAA fd00:10:244::9"},
		{"10-244-0-99.empty.pod", AAAA, "NODATA"},
		{"no-address.default.pod", A, "NXDOMAIN"},
		{"10-244-0-99.missing.pod", A, "NXDOMAIN"},
		{"default.pod", A, "NODATA"},
	} {
		name := strings.TrimPrefix(c.name+".cluster.local.", ".")
		got := show(z.Answer(name, c.qtype))
		if got != c.want && !(strings.HasSuffix(c.want, "\n") && strings.HasPrefix(got, c.want)) {
			t.Errorf("%s %d:\n%s\nwant\n%s", name, c.qtype, got, c.want)
		}
	}
	if a := z.Answer("loop.prod.svc.cluster.local.", A); len(a.Records) > 20 {
		t.Errorf("a loop of aliases gives %d records", len(a.Records))
	}
}

func TestReverseNames(t *testing.T) {
	z := example()
	for text, want := range map[string]string{
		"7.0.96.10.in-addr.arpa.":  "web.default.svc.cluster.local.",
		"6.0.244.10.in-addr.arpa.": "10-244-0-6.pods.default.svc.cluster.local.",
		"7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa.": "web.default.svc.cluster.local.",
	} {
		addr, ok := ReverseAddr(text)
		if !ok {
			t.Errorf("%s is no reverse name", text)
			continue
		}
		a := z.Reverse(text, addr, PTR)
		if len(a.Records) != 1 || a.Records[0].Target != want {
			t.Errorf("%s: %s", text, show(a))
		}
	}
	if a := z.Reverse("x.", netip.MustParseAddr("10.96.9.9"), PTR); a.Exists {
		t.Error("an address that nobody has has a name")
	}
	for _, bad := range []string{"0.96.10.in-addr.arpa.", "x.ip6.arpa.", "example.com.", "1.2.3.4.5.in-addr.arpa."} {
		if addr, ok := ReverseAddr(bad); ok {
			t.Errorf("%s is taken for %s", bad, addr)
		}
	}
}

func TestDeletionLeavesNothing(t *testing.T) {
	z := example()
	for _, key := range []types.NamespacedName{{Namespace: "default", Name: "web"}, {Namespace: "default", Name: "single"}, {Namespace: "default", Name: "pods"},
		{Namespace: "default", Name: "nobody"}, {Namespace: "prod", Name: "db"}, {Namespace: "prod", Name: "alias"}, {Namespace: "prod", Name: "loop"}} {
		z.DeleteService(key)
	}
	z.DeleteSlice(epSlice("default", "pods", "pods-4", 1))
	z.DeleteSlice(epSlice("default", "pods", "pods-6", 1))
	z.DeleteNamespace("empty")
	if len(z.services)+len(z.reverse)+len(z.spaces)+len(z.known) > 0 {
		t.Errorf("left: %v %v %v", z.services, z.reverse, z.spaces)
	}
}

// Whatever the history, the zone answers as one made fresh from the same objects.
func TestHistoryDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		z := New("cluster.local")
		services := map[string]*corev1.Service{}
		sliceOf := map[string]*discoveryv1.EndpointSlice{}
		names := []string{"a", "b"}
		t.Repeat(map[string]func(*rapid.T){
			"service": func(t *rapid.T) {
				n := rapid.SampledFrom(names).Draw(t, "name")
				s := rapid.SampledFrom([]*corev1.Service{
					svc("ns", n, []string{"10.96.0.1"}, corev1.ServicePort{Name: "http", Port: 80}),
					svc("ns", n, []string{"None"}), externalName("ns", n, "b.ns.svc.cluster.local"),
				}).Draw(t, "service")
				services[n] = s
				z.SetService(s)
			},
			"no service": func(t *rapid.T) {
				n := rapid.SampledFrom(names).Draw(t, "name")
				delete(services, n)
				z.DeleteService(types.NamespacedName{Namespace: "ns", Name: n})
			},
			"slice": func(t *rapid.T) {
				n := rapid.SampledFrom(names).Draw(t, "name")
				s := epSlice("ns", n, n+"-1", 5000, rapid.SliceOfN(rapid.SampledFrom([]string{"10.244.0.1", "10.244.0.2=h", "!10.244.0.3"}), 0, 3).Draw(t, "endpoints")...)
				sliceOf[n] = s
				z.SetSlice(s)
			},
			"no slice": func(t *rapid.T) {
				n := rapid.SampledFrom(names).Draw(t, "name")
				if s := sliceOf[n]; s != nil {
					delete(sliceOf, n)
					z.DeleteSlice(s)
				}
			},
			"": func(t *rapid.T) {
				fresh := New("cluster.local")
				for _, n := range slices.Sorted(maps.Keys(services)) {
					fresh.SetService(services[n])
				}
				for _, s := range sliceOf {
					fresh.SetSlice(s)
				}
				for _, n := range []string{"ns.svc", "a.ns.svc", "b.ns.svc", "h.a.ns.svc", "10-244-0-1.b.ns.svc", "_http._tcp.a.ns.svc", "_tcp.b.ns.svc"} {
					for _, q := range []Type{A, SRV, CNAME} {
						got, want := show(z.Answer(n+".cluster.local.", q)), show(fresh.Answer(n+".cluster.local.", q))
						if got != want {
							t.Fatalf("%s %d:\n%s\nfresh:\n%s", n, q, got, want)
						}
					}
				}
			},
		})
	})
}
