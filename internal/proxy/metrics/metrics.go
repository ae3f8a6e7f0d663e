package metrics

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"viaduct.dev/viaduct/internal/servicetable"
)

// maxTriggers bounds what is remembered while nothing can be programmed.
const maxTriggers = 10_000

var families = []string{string(corev1.IPv4Protocol), string(corev1.IPv6Protocol)}

// Metrics is what the proxy tells. Its methods may be called from everywhere.
type Metrics struct {
	registry *prometheus.Registry
	kube     kube
	own      own
	start    time.Time

	mu     sync.Mutex // guards what follows
	queued triggers
	taken  triggers
	table  table
}

// triggers are the times at which the causes of changes happened.
type triggers []time.Time

// New returns metrics of their own.
func New() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), start: time.Now(), table: newTable()}
	m.kube = newKube(m.registry)
	m.own = newOwn(m.registry)
	return m
}

// TriggerTime is when what caused an EndpointSlice's last change happened; the
// zero time if it does not say.
func TriggerTime(es *discoveryv1.EndpointSlice) time.Time {
	t, err := time.Parse(time.RFC3339Nano, es.Annotations[corev1.EndpointsLastChangeTriggerTime])
	if err != nil {
		return time.Time{}
	}
	return t
}

// ServiceChanged says that a Service came, changed or went.
func (m *Metrics) ServiceChanged() {
	m.kube.serviceChanges.Inc()
	m.kube.servicesPending.Inc()
	m.Queued()
}

// EndpointsChanged says that an EndpointSlice came, changed or went. trigger is
// when its cause happened, or zero: of slices that are merely told again, and of
// those that went.
func (m *Metrics) EndpointsChanged(trigger time.Time) {
	m.kube.endpointChanges.Inc()
	m.kube.endpointsPending.Inc()
	m.Queued()
	m.mu.Lock()
	defer m.mu.Unlock()
	// What happened before this process began was another's to program.
	if trigger.After(m.start) && len(m.queued) < maxTriggers {
		m.queued = append(m.queued, trigger)
	}
}

// Queued says that there is something to program.
func (m *Metrics) Queued() { setAll(m.kube.lastQueued, now()) }

// Programming says that what was told until now is being programmed.
func (m *Metrics) Programming() {
	m.kube.servicesPending.Set(0)
	m.kube.endpointsPending.Set(0)
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.taken) == 0 {
		m.taken, m.queued = m.queued, m.taken
	} else { // they were refused, and are tried again
		m.taken = append(m.taken, m.queued[:min(len(m.queued), maxTriggers)]...)
		m.queued = m.queued[:0]
	}
}

// Sync is one try to program something.
type Sync struct {
	// Diff is what was programmed; a Snapshot if Whole.
	Diff  *servicetable.Diff
	Whole bool
	Took  time.Duration
	// Messages and Bytes went to the kernel.
	Messages, Bytes int
}

// Programmed says that the kernel holds what was being programmed.
func (m *Metrics) Programmed(s Sync) {
	for _, f := range families {
		m.kube.sync.WithLabelValues(f).Observe(s.Took.Seconds())
		if s.Whole {
			m.kube.syncFull.WithLabelValues(f).Observe(s.Took.Seconds())
		} else {
			m.kube.syncPartial.WithLabelValues(f).Observe(s.Took.Seconds())
		}
	}
	setAll(m.kube.lastSync, now())
	m.own.messages.Add(float64(s.Messages))
	m.own.bytes.Add(float64(s.Bytes))
	if s.Whole {
		m.own.lastFull.Set(s.Took.Seconds())
	}
	m.Holds(s.Diff.Revision)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.taken {
		late := max(0, time.Since(t).Seconds()) // the clocks of two machines
		for _, f := range families {
			m.kube.network.WithLabelValues(f).Observe(late)
		}
	}
	m.taken = m.taken[:0]
	if s.Whole {
		m.table = newTable()
	}
	m.table.follow(s.Diff)
	m.table.show(m)
}

// Holds says up to where the kernel holds what the API has.
func (m *Metrics) Holds(r servicetable.Revision) {
	m.own.revision.WithLabelValues("services").Set(float64(r.Services))
	m.own.revision.WithLabelValues("endpointslices").Set(float64(r.EndpointSlices))
}

// Refused says that the kernel did not take all of what was being programmed.
func (m *Metrics) Refused() { addAll(m.kube.syncFailures, 1) }

// NotCleaned says that something which is not wanted any more stayed.
func (m *Metrics) NotCleaned() { addAll(m.kube.cleanupFailures, 1) }

// Freed says that so many flows in conntrack were freed of endpoints that went.
func (m *Metrics) Freed(flows int, took time.Duration) {
	for _, f := range families {
		m.kube.conntrack.WithLabelValues(f).Observe(took.Seconds())
	}
	// Which families they were of is not told; each was counted once.
	m.kube.conntrackDeleted.WithLabelValues(families[0]).Add(float64(flows))
}

// Restored says that our tables were made again after somebody had deleted or
// changed them.
func (m *Metrics) Restored() { m.own.restored.Inc() }

// Asked counts an answer to "healthz" or "livez"; it is for the health server.
func (m *Metrics) Asked(path string, status int) {
	switch path {
	case "healthz":
		m.kube.healthz.WithLabelValues(strconv.Itoa(status)).Inc()
	case "livez":
		m.kube.livez.WithLabelValues(strconv.Itoa(status)).Inc()
	}
}

// Listeners says how many node ports are relayed on loopback in a family.
func (m *Metrics) Listeners(family corev1.IPFamily, n int) {
	m.kube.listeners.WithLabelValues(string(family)).Set(float64(n))
}

// ListenerRefused says that a node port could not be opened on loopback.
func (m *Metrics) ListenerRefused(family corev1.IPFamily) {
	m.kube.listenerFailures.WithLabelValues(string(family)).Inc()
}

func now() float64 { return float64(time.Now().UnixNano()) / 1e9 }

func setAll(g *prometheus.GaugeVec, v float64) {
	for _, f := range families {
		g.WithLabelValues(f).Set(v)
	}
}

func addAll(c *prometheus.CounterVec, v float64) {
	for _, f := range families {
		c.WithLabelValues(f).Add(v)
	}
}
