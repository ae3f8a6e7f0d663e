package laststate_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"viaduct.dev/viaduct/internal/proxy/laststate"
	"viaduct.dev/viaduct/internal/servicetable"
)

// world makes objects of a small cluster and tells them to a table.
type world struct {
	table   *servicetable.Table
	version int
}

func newWorld() *world {
	return &world{table: servicetable.New(servicetable.Config{NodeName: "here"})}
}

func (w *world) next() string {
	w.version++
	return fmt.Sprint(w.version)
}

// service sets Service number n, with the features that the bits of kind say.
func (w *world) service(n, kind int) {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("web-", n), ResourceVersion: w.next()},
		Spec: corev1.ServiceSpec{
			Type:       corev1.ServiceTypeLoadBalancer,
			ClusterIP:  fmt.Sprintf("10.96.%d.%d", n/200, n%200+1),
			ClusterIPs: []string{fmt.Sprintf("10.96.%d.%d", n/200, n%200+1), fmt.Sprintf("fd00:96::%x", n+1)},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
			Ports:      []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
	if kind&1 != 0 {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "dns", Port: 53, NodePort: int32(30000 + n), Protocol: corev1.ProtocolUDP})
		s.Spec.Ports[0].Name = "http"
	}
	if kind&2 != 0 {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	}
	if kind&4 != 0 {
		s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceExternalTrafficPolicyLocal, int32(31000+n)
	}
	if kind&8 != 0 {
		s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24", "2001:db8::/32"}
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprintf("203.0.113.%d", n%250+1)}, {IP: fmt.Sprintf("2001:db8:1::%x", n+1)}}
	}
	w.table.SetService(s)
}

// slice sets the slice of Service number n in a family to the endpoints whose
// numbers are given; each third is on this node.
func (w *world) slice(n int, family discoveryv1.AddressType, port int32, endpoints []int) {
	es := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: fmt.Sprintf("web-%d-%s", n, family), ResourceVersion: w.next(),
			Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprint("web-", n)},
		},
		AddressType: family,
	}
	for _, name := range []string{"", "http", "dns"} {
		protocol := corev1.ProtocolTCP
		if name == "dns" {
			protocol = corev1.ProtocolUDP
		}
		es.Ports = append(es.Ports, discoveryv1.EndpointPort{Name: &name, Port: &port, Protocol: &protocol})
	}
	for _, e := range endpoints {
		address, node := fmt.Sprintf("10.244.%d.%d", e/250, e%250+1), "there"
		if family == discoveryv1.AddressTypeIPv6 {
			address = fmt.Sprintf("fd00:244::%x", e+1)
		}
		if e%3 == 0 {
			node = "here"
		}
		es.Endpoints = append(es.Endpoints, discoveryv1.Endpoint{Addresses: []string{address}, NodeName: &node})
	}
	w.table.SetSlice(es)
}

// change does something at random.
func (w *world) change(t *rapid.T) {
	n := rapid.IntRange(0, 3).Draw(t, "service")
	family := rapid.SampledFrom([]discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6}).Draw(t, "family")
	switch rapid.IntRange(0, 5).Draw(t, "what") {
	case 0, 1:
		w.service(n, rapid.IntRange(0, 15).Draw(t, "kind"))
	case 2:
		w.table.DeleteService(types.NamespacedName{Namespace: "default", Name: fmt.Sprint("web-", n)}, w.next())
	case 3:
		w.table.DeleteSlice(types.NamespacedName{Namespace: "default", Name: fmt.Sprintf("web-%d-%s", n, family)}, w.next())
	default:
		most := rapid.SampledFrom([]int{3, 10, 200}).Draw(t, "most") // 200 are several records
		endpoints := rapid.SliceOfNDistinct(rapid.IntRange(0, 299), 0, most, rapid.ID[int]).Draw(t, "endpoints")
		w.slice(n, family, rapid.SampledFrom([]int32{8080, 9090}).Draw(t, "port"), endpoints)
	}
}

// kept is what a Snapshot says that a file keeps.
func kept(d servicetable.Diff) servicetable.Diff {
	d.Gone, d.Conflicts = nil, nil
	return d
}

// tester is a test, or a try of rapid's.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
}

func equal(t tester, got, want servicetable.Diff) {
	t.Helper()
	g, w := reflect.ValueOf(got), reflect.ValueOf(kept(want))
	for i := range g.NumField() {
		a, b := g.Field(i), w.Field(i)
		if a.Kind() == reflect.Slice && a.Len() == 0 && b.Len() == 0 {
			continue
		}
		if !reflect.DeepEqual(a.Interface(), b.Interface()) {
			t.Errorf("%s:\n%v, want\n%v", g.Type().Field(i).Name, a, b)
		}
	}
}

func open(t tester, path string) *laststate.State {
	t.Helper()
	s, err := laststate.Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// finish writes what was told, and closes the file.
func finish(t tester, s *laststate.State) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func load(t tester, path string) servicetable.Diff {
	t.Helper()
	s := open(t, path)
	defer finish(t, s)
	d, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestWhateverHappenedTheFileHasTheTable(t *testing.T) {
	dir := t.TempDir()
	tries := 0
	rapid.Check(t, func(t *rapid.T) {
		tries++
		path := filepath.Join(dir, fmt.Sprint(tries))
		w := newWorld()
		processes := rapid.IntRange(1, 3).Draw(t, "processes")
		for range processes {
			s := open(t, path)
			before := rapid.IntRange(0, 5).Draw(t, "changes before")
			for range before {
				w.change(t)
			}
			s.Replace(w.table.Snapshot())
			for range rapid.IntRange(0, 10).Draw(t, "changes") {
				w.change(t)
				s.Add(w.table.Flush())
			}
			finish(t, s)
			equal(t, load(t, path), w.table.Snapshot())
			// The next process has a table of its own.
		}
	})
}
