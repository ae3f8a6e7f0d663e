package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// kube are kube-proxy's. Their help texts say what they mean here.
type kube struct {
	sync, syncFull, syncPartial, network *prometheus.HistogramVec
	lastSync, lastQueued                 *prometheus.GaugeVec
	endpointsPending, servicesPending    prometheus.Gauge
	endpointChanges, serviceChanges      prometheus.Counter
	syncFailures, cleanupFailures        *prometheus.CounterVec
	noLocal                              *prometheus.GaugeVec
	healthz, livez                       *prometheus.CounterVec
	conntrack                            *prometheus.HistogramVec
	conntrackDeleted                     *prometheus.CounterVec
	listeners                            *prometheus.GaugeVec
	listenerFailures                     *prometheus.CounterVec
}

// own are those that kube-proxy does not have.
type own struct {
	revision, frontends    *prometheus.GaugeVec
	pools, slots, lastFull prometheus.Gauge
	restored               prometheus.Counter
	messages, bytes        prometheus.Counter
}

// maker makes metrics with a common prefix and registers them.
type maker struct {
	registry *prometheus.Registry
	prefix   string
}

func (k maker) histogram(name, help string, buckets []float64) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: k.prefix, Name: name, Help: help, Buckets: buckets}, []string{"ip_family"})
	k.registry.MustRegister(h)
	return h
}

func (k maker) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: k.prefix, Name: name, Help: help}, labels)
	k.registry.MustRegister(g)
	return g
}

func (k maker) counter(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: k.prefix, Name: name, Help: help}, labels)
	k.registry.MustRegister(c)
	return c
}

func newKube(r *prometheus.Registry) kube {
	k := maker{r, "kubeproxy"}
	durations := prometheus.ExponentialBuckets(0.001, 2, 15)
	out := kube{
		sync:        k.histogram("sync_proxy_rules_duration_seconds", "How long it took to program a change, or everything.", durations),
		syncFull:    k.histogram("sync_full_proxy_rules_duration_seconds", "How long it took to program everything.", durations),
		syncPartial: k.histogram("sync_partial_proxy_rules_duration_seconds", "How long it took to program a change.", durations),
		network: k.histogram("network_programming_duration_seconds", "From what changed a Service's endpoints to the kernel's holding the change, by the clocks of two machines.", slices.Concat(
			prometheus.LinearBuckets(0.25, 0.25, 2), prometheus.LinearBuckets(1, 1, 59), prometheus.LinearBuckets(60, 5, 12), prometheus.LinearBuckets(120, 30, 7))),
		lastSync:         k.gauge("sync_proxy_rules_last_timestamp_seconds", "When something was programmed last.", "ip_family"),
		lastQueued:       k.gauge("sync_proxy_rules_last_queued_timestamp_seconds", "When something was to be programmed last.", "ip_family"),
		endpointsPending: k.gauge("sync_proxy_rules_endpoint_changes_pending", "Changes of EndpointSlices that are not programmed yet.").WithLabelValues(),
		endpointChanges:  k.counter("sync_proxy_rules_endpoint_changes_total", "Changes of EndpointSlices.").WithLabelValues(),
		servicesPending:  k.gauge("sync_proxy_rules_service_changes_pending", "Changes of Services that are not programmed yet.").WithLabelValues(),
		serviceChanges:   k.counter("sync_proxy_rules_service_changes_total", "Changes of Services.").WithLabelValues(),
		syncFailures:     k.counter("sync_proxy_rules_nftables_sync_failures_total", "Tries to program something that the kernel refused at least in part.", "ip_family"),
		cleanupFailures:  k.counter("sync_proxy_rules_nftables_cleanup_failures_total", "Times that something not wanted any more could not be removed.", "ip_family"),
		noLocal:          k.gauge("sync_proxy_rules_no_local_endpoints_total", "Service ports whose policy Local finds no endpoint on this node while there are some elsewhere: new connections are dropped.", "traffic_policy", "ip_family"),
		healthz:          k.counter("proxy_healthz_total", "Answers to /healthz by status.", "code"),
		livez:            k.counter("proxy_livez_total", "Answers to /livez by status.", "code"),
		conntrack:        k.histogram("conntrack_reconciler_sync_duration_seconds", "How long it took to free the flows that led to endpoints which went.", durations),
		conntrackDeleted: k.counter("conntrack_reconciler_deleted_entries_total", "Flows that were freed because they led to an endpoint which went, or nowhere.", "ip_family"),
		listeners:        k.gauge("nftables_localhost_nodeport_listeners", "Node ports that are relayed on loopback.", "ip_family"),
		listenerFailures: k.counter("nftables_localhost_nodeport_listener_creation_failures_total", "Node ports that could not be opened on loopback.", "ip_family"),
	}
	addAll(out.syncFailures, 0)
	addAll(out.cleanupFailures, 0)
	return out
}

func newOwn(r *prometheus.Registry) own {
	k := maker{r, "viaduct_proxy"}
	return own{
		revision:  k.gauge("programmed_revision", "The newest resourceVersion that the kernel holds, by kind.", "kind"),
		frontends: k.gauge("frontends", "Addresses and ports that clients can dial, by what becomes of a caller from this node.", "verdict", "ip_family"),
		pools:     k.gauge("pools", "Pools that have endpoints.").WithLabelValues(),
		slots:     k.gauge("slots", "Places of endpoints in pools.").WithLabelValues(),
		lastFull:  k.gauge("last_full_load_seconds", "How long it took to program everything, the last time.").WithLabelValues(),
		restored:  k.counter("tables_restored_total", "Times that our tables were made again after another program had deleted or changed them.").WithLabelValues(),
		messages:  k.counter("netlink_messages_total", "Messages sent to the kernel.").WithLabelValues(),
		bytes:     k.counter("netlink_bytes_total", "Bytes sent to the kernel.").WithLabelValues(),
	}
}

// Drop is how many packets a policy Local dropped for want of an endpoint here.
type Drop struct {
	Policy  string // internal or external
	Family  string // IPv4 or IPv6
	Packets uint64
}

// drops reads the kernel's counters when somebody asks.
type drops struct {
	read func() ([]Drop, error)
	desc *prometheus.Desc
}

// ReadDrops says how to read the counters of dropped packets. It is to be called
// at most once; read may be called from any goroutine.
func (m *Metrics) ReadDrops(read func() ([]Drop, error)) {
	m.registry.MustRegister(drops{read, prometheus.NewDesc("viaduct_proxy_policy_dropped_packets_total",
		"Packets that a traffic policy Local dropped because no endpoint is on this node.", []string{"traffic_policy", "ip_family"}, nil)})
}

// Describe tells the one metric.
func (d drops) Describe(ch chan<- *prometheus.Desc) { ch <- d.desc }

// Collect reads the counters.
func (d drops) Collect(ch chan<- prometheus.Metric) {
	all, err := d.read()
	if err != nil {
		return // the others are told all the same
	}
	for _, one := range all {
		ch <- prometheus.MustNewConstMetric(d.desc, prometheus.CounterValue, float64(one.Packets), one.Policy, one.Family)
	}
}
