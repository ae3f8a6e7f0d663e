package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"viaduct.dev/viaduct/internal/proxy/conntrack"
	"viaduct.dev/viaduct/internal/proxy/healthcheck"
	"viaduct.dev/viaduct/internal/proxy/nftables"
	"viaduct.dev/viaduct/internal/servicetable"
)

// Config says what a node's proxy is to be.
type Config struct {
	NodeName  string
	Informers informers.SharedInformerFactory
	// Nodes tells of this node's labels; nil means those of Informers. One that
	// knows this node alone is enough.
	Nodes coreinformers.NodeInformer
	// NodeIPs are the node's own addresses, the primary family first.
	NodeIPs []netip.Addr
	// NodePortAddresses offer node ports; empty means NodeIPs.
	NodePortAddresses []netip.Addr
	// Events are recorded on Services that cannot have what they ask for; nil
	// means that they are only logged.
	Events record.EventRecorder
	// ClusterCIDRs are where Pods are, ServiceCIDRs where cluster IPs are.
	ClusterCIDRs, ServiceCIDRs []netip.Prefix
	Log                        *slog.Logger
}

// Proxy is the proxy of one node. Make it with New.
type Proxy struct {
	cfg   Config
	wake  chan struct{}
	ready chan struct{} // closed when everything known at the start is programmed

	mu      sync.Mutex // guards what follows
	table   *servicetable.Table
	local   []netip.AddrPort
	localIs bool // local has been programmed

	health *healthcheck.Ports // belongs to Run's goroutine

	revision atomic.Pointer[servicetable.Revision]
}

// New makes a proxy; Run runs it.
func New(cfg Config) *Proxy {
	if len(cfg.NodePortAddresses) == 0 {
		cfg.NodePortAddresses = cfg.NodeIPs
	}
	if cfg.Nodes == nil {
		cfg.Nodes = cfg.Informers.Core().V1().Nodes()
	}
	return &Proxy{cfg: cfg, wake: make(chan struct{}, 1), ready: make(chan struct{}), table: servicetable.New(servicetable.Config{NodeName: cfg.NodeName}), localIs: true}
}

// Run programs the network namespace of the process until ctx ends. The rules
// stay in the kernel then: they go on without it.
func (p *Proxy) Run(ctx context.Context) error {
	if initialNamespace() {
		p.cfg.Log.Warn("the host's own network namespace: its sysctls and routes are left alone")
	} else if err := prepare(p.cfg.ServiceCIDRs, p.cfg.NodeIPs); err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	sink, prior, err := nftables.Open(nftables.Config{RandomFully: true, Log: p.cfg.Log}, nftables.Node{
		NodePortAddresses: p.cfg.NodePortAddresses, Masquerade: p.cfg.NodeIPs,
		LocalCIDRs: p.cfg.ClusterCIDRs, ServiceCIDRs: p.cfg.ServiceCIDRs,
	})
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	defer sink.Close()
	ct, err := conntrack.Open()
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	defer ct.Close()
	p.health = healthcheck.NewPorts(func() bool { return true }, p.cfg.Log)
	p.health.SetAddresses(p.cfg.NodePortAddresses)
	defer p.health.Close()
	synced, err := p.follow()
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	p.cfg.Informers.Start(ctx.Done())
	// Before all objects are known, a diff would remove what is still wanted.
	if !cache.WaitFor(ctx, "", synced...) {
		return nil
	}
	p.mu.Lock()
	p.table.Adopt(prior)
	all := p.table.Snapshot()
	p.mu.Unlock()
	// What conntrack holds is right: the kernel went on without us.
	err = p.apply(sink, &all)
	p.tell(&all)
	close(p.ready)
	for {
		var again, retry <-chan time.Time
		if p.health.Missing() {
			retry = time.After(retryAfter)
		}
		if err != nil {
			p.cfg.Log.Error("part of a change was refused; it is tried again", "plane", "nftables", "err", err)
			again = time.After(retryAfter)
		}
		select {
		case <-p.wake:
			if stepErr := p.step(sink, ct); stepErr != nil {
				err = stepErr
			}
		case <-again:
			err = p.reload(sink)
		case <-retry:
			p.health.Retry()
		case <-ctx.Done():
			return nil
		}
	}
}

// retryAfter is the pause before everything is compared with the kernel again,
// after it has refused something.
const retryAfter = time.Second

// reload compares the kernel with the whole table and writes what is different.
func (p *Proxy) reload(sink *nftables.Sink) error {
	if err := sink.Reload(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.localIs = false // what is exempted is settled anew too
	p.poke()
	all := p.table.Snapshot()
	p.tell(&all)
	return p.apply(sink, &all)
}

// Ready is closed when everything that was known at the start is programmed.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

// Programmed is the newest revision of the API's objects that the kernel holds:
// the node's watermark.
func (p *Proxy) Programmed() servicetable.Revision {
	if r := p.revision.Load(); r != nil {
		return *r
	}
	return servicetable.Revision{}
}

// SetLocal says which addresses a server on this node itself answers at over UDP
// and TCP, such as that of the cluster's DNS. Packets to and from them are not
// tracked and not a Service's. An empty list gives them back to their Services.
func (p *Proxy) SetLocal(servers []netip.AddrPort) {
	p.mu.Lock()
	p.local, p.localIs = servers, false
	p.mu.Unlock()
	p.poke()
}

func (p *Proxy) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *Proxy) change(fn func(*servicetable.Table)) {
	p.mu.Lock()
	fn(p.table)
	p.mu.Unlock()
	p.poke()
}

// step programs what has changed since the last one. What the kernel refuses is
// left out; the rest is programmed.
func (p *Proxy) step(sink *nftables.Sink, ct *conntrack.Conn) (err error) {
	p.mu.Lock()
	// A Diff is the table's own until the next call: it is used up here.
	diff := p.table.Flush()
	defer p.mu.Unlock()
	local, changed := p.local, !p.localIs
	p.localIs = true

	if !diff.Empty() {
		err = p.apply(sink, &diff)
		p.free(&diff, sink, ct)
	} else {
		p.revision.Store(&diff.Revision)
	}
	p.tell(&diff)
	if changed {
		if localErr := sink.SetLocal(local); localErr != nil {
			err = errors.Join(err, fmt.Errorf("exempt the node's own servers: %w", localErr))
		}
	}
	return err
}

// apply programs a diff, and moves the watermark when all of it is in the kernel.
func (p *Proxy) apply(sink *nftables.Sink, diff *servicetable.Diff) error {
	start := time.Now()
	if err := sink.Apply(diff); err != nil {
		return err
	}
	p.revision.Store(&diff.Revision)
	p.cfg.Log.Debug("programmed", "frontends", len(diff.Frontends), "slots", len(diff.Slots), "took", time.Since(start))
	return nil
}

// tell tells the world, not the kernel, of a diff.
func (p *Proxy) tell(d *servicetable.Diff) {
	for _, c := range d.Health {
		if err := p.health.Set(c); err != nil {
			p.warn(c.Service, "FailedToStartServiceHealthcheck", "node %s: %v", p.cfg.NodeName, err)
		}
	}
	for _, c := range d.Conflicts {
		p.warn(c.Service, "AddressConflict", "%s is held by the older Service %s: this one is not reached there", c.Frontend, c.With)
	}
}

// warn says in the log, and by an event, what a Service cannot have.
func (p *Proxy) warn(service types.NamespacedName, reason, format string, args ...any) {
	p.cfg.Log.Warn(fmt.Sprintf(format, args...), "service", service, "reason", reason)
	if p.cfg.Events == nil {
		return
	}
	if s, err := p.cfg.Informers.Core().V1().Services().Lister().Services(service.Namespace).Get(service.Name); err == nil {
		p.cfg.Events.Eventf(s, corev1.EventTypeWarning, reason, format, args...)
	}
}

// free frees the flows and clients that are bound to what is gone.
func (p *Proxy) free(d *servicetable.Diff, sink *nftables.Sink, ct *conntrack.Conn) {
	var flows []conntrack.Flow
	for _, g := range d.Gone {
		if g.Frontend.Protocol == servicetable.UDP && !g.Serving {
			flows = append(flows, conntrack.Flow{Frontend: netip.AddrPortFrom(g.Frontend.Addr, g.Frontend.Port), Backend: g.Backend})
		}
	}
	for _, c := range d.Frontends {
		// Flows that began while nobody served them lead nowhere.
		begins := func(old, now servicetable.View) bool {
			return old.Verdict != servicetable.Serve && now.Verdict == servicetable.Serve
		}
		if c.Frontend.Protocol == servicetable.UDP && (begins(c.Old.Internal, c.New.Internal) || begins(c.Old.External, c.New.External)) {
			flows = append(flows, conntrack.Flow{Frontend: netip.AddrPortFrom(c.Frontend.Addr, c.Frontend.Port)})
		}
	}
	if len(flows) > 0 {
		if err := ct.Free(flows); err != nil {
			p.cfg.Log.Warn("UDP flows were not freed", "flows", len(flows), "err", err)
		}
	}
	if err := sink.Forget(d.Gone); err != nil {
		p.cfg.Log.Warn("clients stay bound to an endpoint that is gone", "err", err)
	}
}

// follow enters what the watches tell into the table.
func (p *Proxy) follow() ([]cache.DoneChecker, error) {
	services, err := p.cfg.Informers.Core().V1().Services().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { p.change(func(t *servicetable.Table) { t.SetService(o.(*corev1.Service)) }) },
		UpdateFunc: func(_, o any) { p.change(func(t *servicetable.Table) { t.SetService(o.(*corev1.Service)) }) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if s, ok := o.(*corev1.Service); ok {
				p.change(func(t *servicetable.Table) {
					t.DeleteService(types.NamespacedName{Namespace: s.Namespace, Name: s.Name}, s.ResourceVersion)
				})
			}
		},
	})
	if err != nil {
		return nil, err
	}
	slices, err := p.cfg.Informers.Discovery().V1().EndpointSlices().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { p.change(func(t *servicetable.Table) { t.SetSlice(o.(*discoveryv1.EndpointSlice)) }) },
		UpdateFunc: func(_, o any) { p.change(func(t *servicetable.Table) { t.SetSlice(o.(*discoveryv1.EndpointSlice)) }) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if s, ok := o.(*discoveryv1.EndpointSlice); ok {
				p.change(func(t *servicetable.Table) {
					t.DeleteSlice(types.NamespacedName{Namespace: s.Namespace, Name: s.Name}, s.ResourceVersion)
				})
			}
		},
	})
	if err != nil {
		return nil, err
	}
	nodes, err := p.cfg.Nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { p.node(o.(*corev1.Node)) },
		UpdateFunc: func(_, o any) { p.node(o.(*corev1.Node)) },
	})
	if err != nil {
		return nil, err
	}
	return []cache.DoneChecker{services.HasSyncedChecker(), slices.HasSyncedChecker(), nodes.HasSyncedChecker()}, nil
}

// node takes in what zone this node is in. Every slice is read again then: its
// hints may mean something else here. A Node that is deleted leaves its zone:
// machines do not move.
func (p *Proxy) node(n *corev1.Node) {
	if n.Name != p.cfg.NodeName {
		return
	}
	zone := n.Labels[corev1.LabelTopologyZone]
	p.change(func(t *servicetable.Table) {
		if t.Zone() == zone {
			return
		}
		t.SetZone(zone)
		all, err := p.cfg.Informers.Discovery().V1().EndpointSlices().Lister().List(labels.Everything())
		if err != nil { // a lister of a cache has none
			p.cfg.Log.Error("slices could not be read again", "err", err)
		}
		for _, s := range all {
			t.SetSlice(s)
		}
	})
}
