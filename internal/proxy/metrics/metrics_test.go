package metrics_test

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"

	"viaduct.dev/viaduct/internal/proxy/metrics"
	"viaduct.dev/viaduct/internal/servicetable"
)

func handler(t testing.TB, cfg metrics.HandlerConfig) http.Handler {
	t.Helper()
	h, err := metrics.NewHandler(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func get(t testing.TB, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func scrape(t testing.TB, m *metrics.Metrics) map[string]*dto.MetricFamily {
	t.Helper()
	code, text := get(t, handler(t, metrics.HandlerConfig{Metrics: m}), "/metrics")
	if code != http.StatusOK {
		t.Fatal(code, text)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	all, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// value is that of the metric with these labels, such as "ip_family=IPv4"; of a
// histogram it is the number of observations.
func value(t testing.TB, m *metrics.Metrics, name string, labels ...string) float64 {
	t.Helper()
	for _, one := range scrape(t, m)[name].GetMetric() {
		var have []string
		for _, l := range one.GetLabel() {
			have = append(have, l.GetName()+"="+l.GetValue())
		}
		slices.Sort(have)
		if slices.Sort(labels); !slices.Equal(have, labels) {
			continue
		}
		switch {
		case one.Histogram != nil:
			return float64(one.Histogram.GetSampleCount())
		case one.Gauge != nil:
			return one.Gauge.GetValue()
		default:
			return one.Counter.GetValue()
		}
	}
	t.Errorf("there is no %s%v", name, labels)
	return 0
}

var (
	f4   = servicetable.Frontend{Addr: netip.MustParseAddr("10.96.0.1"), Port: 80, Protocol: servicetable.TCP}
	node = servicetable.Frontend{Addr: netip.MustParseAddr("0.0.0.0"), Port: 30080, Protocol: servicetable.TCP}
	f6   = servicetable.Frontend{Addr: netip.MustParseAddr("fd00:96::1"), Port: 80, Protocol: servicetable.TCP}
	a    = netip.MustParseAddrPort("10.244.0.1:8080")
	b    = netip.MustParseAddrPort("10.244.0.2:8080")
)

func to(internal, external servicetable.Verdict) servicetable.Target {
	return servicetable.Target{Service: "default/web:http", Internal: servicetable.View{Verdict: internal, Pool: 1}, External: servicetable.View{Verdict: external}}
}

// Row metrics `:10249/metrics` (features.md 1.5).
func TestTheNamesAreKubeProxys(t *testing.T) {
	m := metrics.New()
	m.ReadDrops(func() ([]metrics.Drop, error) { return []metrics.Drop{{"internal", "IPv4", 7}}, nil })
	m.ServiceChanged()
	m.EndpointsChanged(time.Now().Add(time.Second))
	m.Programming()
	m.Programmed(metrics.Sync{Diff: &servicetable.Diff{}, Whole: true})
	m.Programmed(metrics.Sync{Diff: &servicetable.Diff{}})
	m.Freed(3, time.Millisecond)
	m.Asked("healthz", 200)
	m.Asked("livez", 503)
	m.Listeners(corev1.IPv4Protocol, 1)
	m.ListenerRefused(corev1.IPv6Protocol)
	// A request makes the client's own appear.
	api := httptest.NewServer(http.NotFoundHandler())
	defer api.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: api.URL})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = client.CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})

	list, err := os.Open("testdata/kube-proxy-1.37.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	all := scrape(t, m)
	upstream := map[string]bool{}
	for lines := bufio.NewScanner(list); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		name, _, _ := strings.Cut(lines.Text(), " ")
		upstream[name] = true
		if got := shape(all[name]); got != lines.Text() {
			t.Errorf("%q, want %q", got, lines.Text())
		}
	}
	for name := range all {
		known := upstream[name] || strings.HasPrefix(name, "viaduct_proxy_") || strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") || strings.HasPrefix(name, "rest_client_")
		if !known {
			t.Errorf("%s is neither kube-proxy's nor named as ours", name)
		}
	}
	if got := value(t, m, "viaduct_proxy_policy_dropped_packets_total", "traffic_policy=internal", "ip_family=IPv4"); got != 7 {
		t.Errorf("%v packets dropped", got)
	}
}

// shape is how testdata writes a metric down.
func shape(f *dto.MetricFamily) string {
	if f == nil || len(f.GetMetric()) == 0 {
		return "nothing"
	}
	labels := map[string]bool{}
	for _, l := range f.GetMetric()[0].GetLabel() {
		labels[l.GetName()] = true
	}
	out := strings.TrimSpace(fmt.Sprintf("%s %s %s", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(slices.Sorted(maps.Keys(labels)), ",")))
	if h := f.GetMetric()[0].GetHistogram(); h != nil {
		b := h.GetBucket()[:len(h.GetBucket())-1] // the last is +Inf
		out += fmt.Sprintf(" %v %v %d", b[0].GetUpperBound(), b[len(b)-1].GetUpperBound(), len(b))
	}
	return out
}

func TestChangesArePendingUntilTheyAreBeingProgrammed(t *testing.T) {
	m := metrics.New()
	want := func(services, endpoints, total float64) {
		t.Helper()
		if s, e := value(t, m, "kubeproxy_sync_proxy_rules_service_changes_pending"), value(t, m, "kubeproxy_sync_proxy_rules_endpoint_changes_pending"); s != services || e != endpoints {
			t.Errorf("pending %v, %v; want %v, %v", s, e, services, endpoints)
		}
		if got := value(t, m, "kubeproxy_sync_proxy_rules_endpoint_changes_total"); got != total {
			t.Errorf("%v in all, want %v", got, total)
		}
	}
	m.ServiceChanged()
	m.EndpointsChanged(time.Time{})
	m.EndpointsChanged(time.Time{})
	want(1, 2, 2)
	m.Programming()
	want(0, 0, 2)
	m.EndpointsChanged(time.Time{})
	want(0, 1, 3)
}

func TestProgrammingLatencyIsThatOfWhatWasProgrammed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New()
		observed := func() float64 {
			return value(t, m, "kubeproxy_network_programming_duration_seconds", "ip_family=IPv6")
		}
		slice := func(at time.Time) *discoveryv1.EndpointSlice {
			return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{
				"endpoints.kubernetes.io/last-change-trigger-time": at.Format(time.RFC3339Nano),
			}}}
		}
		m.EndpointsChanged(metrics.TriggerTime(slice(time.Now().Add(-time.Hour)))) // before our time
		m.EndpointsChanged(metrics.TriggerTime(&discoveryv1.EndpointSlice{}))      // says nothing
		<-time.After(time.Second)
		m.EndpointsChanged(metrics.TriggerTime(slice(time.Now())))
		m.Programming()
		m.EndpointsChanged(metrics.TriggerTime(slice(time.Now()))) // too late for this batch
		<-time.After(3 * time.Second)
		m.Refused()
		m.Programming() // again, and both
		m.EndpointsChanged(metrics.TriggerTime(slice(time.Now())))
		m.Programmed(metrics.Sync{Diff: &servicetable.Diff{}})
		if got := observed(); got != 2 {
			t.Errorf("%v latencies, want 2", got)
		}
		h := scrape(t, m)["kubeproxy_network_programming_duration_seconds"].GetMetric()[0].GetHistogram()
		if h.GetSampleSum() != 6 {
			t.Errorf("%v s in all, want twice 3", h.GetSampleSum())
		}
		m.Programming()
		m.Programmed(metrics.Sync{Diff: &servicetable.Diff{}})
		if got := observed(); got != 3 {
			t.Errorf("%v latencies, want 3", got)
		}
	})
}

func TestTheTableIsCounted(t *testing.T) {
	m := metrics.New()
	want := func(name string, want float64, labels ...string) {
		t.Helper()
		if got := value(t, m, name, labels...); got != want {
			t.Errorf("%s%v is %v, want %v", name, labels, got, want)
		}
	}
	first := servicetable.Diff{
		Frontends: []servicetable.FrontendChange{
			{Frontend: f4, New: to(servicetable.Drop, servicetable.Serve)},
			{Frontend: node, New: to(servicetable.Serve, servicetable.Drop)},
			{Frontend: f6, New: to(servicetable.Drop, servicetable.Drop)},
		},
		Slots:    []servicetable.SlotChange{{Pool: 1, Slot: 0, New: a}, {Pool: 1, Slot: 1, New: b}},
		Revision: servicetable.Revision{Services: 5, EndpointSlices: 9},
	}
	for range 2 { // the second is a reload, not as much again
		m.Programmed(metrics.Sync{Diff: &first, Whole: true, Took: 2 * time.Second, Messages: 3, Bytes: 1000})
		want("viaduct_proxy_frontends", 1, "verdict=drop", "ip_family=IPv4")
		want("viaduct_proxy_frontends", 1, "verdict=serve", "ip_family=IPv4")
		want("viaduct_proxy_pools", 1)
		want("viaduct_proxy_slots", 2)
		want("viaduct_proxy_last_full_load_seconds", 2)
		want("kubeproxy_sync_proxy_rules_no_local_endpoints_total", 1, "traffic_policy=internal", "ip_family=IPv4")
		want("kubeproxy_sync_proxy_rules_no_local_endpoints_total", 1, "traffic_policy=external", "ip_family=IPv4")
		want("kubeproxy_sync_proxy_rules_no_local_endpoints_total", 1, "traffic_policy=external", "ip_family=IPv6")
	}
	want("viaduct_proxy_netlink_messages_total", 6)
	want("viaduct_proxy_netlink_bytes_total", 2000)
	want("viaduct_proxy_programmed_revision", 9, "kind=endpointslices")
	next := servicetable.Diff{
		Frontends: []servicetable.FrontendChange{
			{Frontend: f4, Old: to(servicetable.Drop, servicetable.Serve), New: to(servicetable.Serve, servicetable.Serve)},
			{Frontend: node, Old: to(servicetable.Serve, servicetable.Drop)},
		},
		Slots: []servicetable.SlotChange{{Pool: 1, Slot: 0, Old: a, New: b}, {Pool: 1, Slot: 1, Old: b}},
	}
	m.Programmed(metrics.Sync{Diff: &next})
	want("viaduct_proxy_frontends", 0, "verdict=drop", "ip_family=IPv4")
	want("viaduct_proxy_frontends", 1, "verdict=serve", "ip_family=IPv4")
	want("viaduct_proxy_pools", 1)
	want("viaduct_proxy_slots", 1)
	want("kubeproxy_sync_proxy_rules_no_local_endpoints_total", 0, "traffic_policy=internal", "ip_family=IPv4")
	want("kubeproxy_sync_proxy_rules_no_local_endpoints_total", 0, "traffic_policy=external", "ip_family=IPv4")
	want("kubeproxy_sync_proxy_rules_no_local_endpoints_total", 1, "traffic_policy=internal", "ip_family=IPv6")
}

func TestACounterThatCannotBeReadHidesNoOther(t *testing.T) {
	m := metrics.New()
	m.ReadDrops(func() ([]metrics.Drop, error) { return nil, errors.New("the kernel says no") })
	if _, there := scrape(t, m)["kubeproxy_sync_proxy_rules_service_changes_total"]; !there {
		t.Error("nothing is told")
	}
}

// Row metrics `/proxyMode`, `/configz`, `/statusz`, `/flagz` (features.md 1.5).
func TestThePagesBesideTheMetrics(t *testing.T) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.String("cluster-cidr", "10.244.0.0/16", "")
	h := handler(t, metrics.HandlerConfig{
		Metrics: metrics.New(), Mode: "nftables", Flags: flags, Profiling: true,
		Config: &kubeproxy.KubeProxyConfiguration{TypeMeta: metav1.TypeMeta{APIVersion: "kubeproxy.config.k8s.io/v1alpha1", Kind: "KubeProxyConfiguration"}, Mode: "nftables", ClusterCIDR: "10.244.0.0/16"},
	})
	for path, want := range map[string]string{
		"/healthz":               "ok",
		"/proxyMode":             "nftables",
		"/configz":               `{"kubeproxy.config.k8s.io":{`,
		"/metrics":               "go_goroutines",
		"/metrics/slis":          "",
		"/flagz":                 "kube-proxy flagz",
		"/statusz":               "kube-proxy statusz",
		"/debug/pprof/goroutine": "",
	} {
		if code, text := get(t, h, path); code != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("%s: %d %.300q", path, code, text)
		}
	}
	if _, text := get(t, h, "/configz"); !strings.Contains(text, `"clusterCIDR":"10.244.0.0/16"`) {
		t.Errorf("%.300q", text)
	}
	if _, text := get(t, h, "/flagz"); !strings.Contains(text, "cluster-cidr") || !strings.Contains(text, "10.244.0.0/16") {
		t.Errorf("%.300q", text)
	}
	plain := handler(t, metrics.HandlerConfig{Metrics: metrics.New(), Mode: "nftables"})
	for _, path := range []string{"/debug/pprof/goroutine", "/flagz", "/nothing"} {
		if code, _ := get(t, plain, path); code != http.StatusNotFound {
			t.Errorf("%s: %d", path, code)
		}
	}
}
