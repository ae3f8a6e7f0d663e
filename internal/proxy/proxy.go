package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"viaduct.dev/viaduct/internal/proxy/healthcheck"
	"viaduct.dev/viaduct/internal/proxy/laststate"
	"viaduct.dev/viaduct/internal/proxy/metrics"
	"viaduct.dev/viaduct/internal/proxy/nodeports"
	"viaduct.dev/viaduct/internal/servicetable"
)

// Config says what a node's proxy is to be.
type Config struct {
	NodeName string
	// Client lists and watches what a proxy alone needs. Informers are used
	// instead where they are there for others anyway.
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	// Nodes tells of this node's labels; nil means those of Informers. One that
	// knows this node alone is enough.
	Nodes coreinformers.NodeInformer
	// Prepare lets the network namespace forward and gives cluster IPs a route:
	// for a namespace that is Viaduct's own. The host's is left alone.
	Prepare bool

	// BindAddress, if it is a certain one, is the node's primary address,
	// whatever its object says. NodeIPs are its addresses where they are known
	// beforehand; else they are the Node object's.
	BindAddress netip.Addr
	NodeIPs     []netip.Addr
	// NodePortAddresses say where node ports are offered.
	NodePortAddresses NodePortAddresses
	// LocalMode is how packets of this node's Pods are known. LocalInterface is
	// a bridge or a prefix of names, for the modes that go by interface.
	LocalMode      LocalMode
	LocalInterface string
	// ClusterCIDRs are where Pods are. ServiceCIDRs are where cluster IPs are;
	// if there are none, the API's ServiceCIDRs say so.
	ClusterCIDRs, ServiceCIDRs []netip.Prefix
	// Masquerade is what address of each family hides a caller; without one the
	// kernel chooses. MasqueradeAll hides everybody who dials a cluster IP.
	Masquerade    []netip.Addr
	MasqueradeAll bool

	// StateFile keeps the last table for a start without the API; empty keeps none.
	StateFile string
	// Metrics count what is done; nil counts for nobody.
	Metrics *metrics.Metrics
	// Health is told how the proxy does; nil means that nobody asks.
	Health *healthcheck.Server
	// Events are recorded on Services that cannot have what they ask for; nil
	// means that they are only logged.
	Events record.EventRecorder
	Log    *slog.Logger
}

// Proxy is the proxy of one node. Make it with New.
type Proxy struct {
	cfg    Config
	state  *laststate.State // nil keeps nothing
	relay  *nodeports.Relay // nil where loopback offers no node ports
	asks   chan func(*plane)
	wake   chan struct{}
	ready  chan struct{} // closed when everything known at the start is programmed
	notes  chan note
	synced chan struct{} // closed when all that was there at the start is known

	mu      sync.Mutex // guards what follows; never held while the kernel is written
	table   *servicetable.Table
	self    self
	selfIs  bool // self has been programmed
	local   []netip.AddrPort
	localIs bool // local has been programmed

	revision atomic.Pointer[servicetable.Revision]
}

// New makes a proxy; Run runs it.
func New(cfg Config) *Proxy {
	if cfg.Health == nil {
		cfg.Health = healthcheck.NewServer(healthcheck.ServerConfig{Log: cfg.Log})
	}
	if cfg.Metrics == nil {
		cfg.Metrics = metrics.New()
	}
	return &Proxy{
		cfg: cfg, wake: make(chan struct{}, 1), ready: make(chan struct{}), asks: make(chan func(*plane)), notes: make(chan note, 100), synced: make(chan struct{}),
		table: servicetable.New(servicetable.Config{NodeName: cfg.NodeName}),
		self:  self{serviceCIDRs: map[string][]netip.Prefix{}}, localIs: true,
	}
}

// Run programs the network namespace of the calling thread until ctx ends. The
// rules stay in the kernel then: they go on without it.
func (p *Proxy) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	all, ctx := errgroup.WithContext(ctx)
	err := p.run(ctx, all)
	if err != nil {
		all.Go(func() error { return err }) // ends the rest
	}
	if err := all.Wait(); err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	return nil
}

func (p *Proxy) run(ctx context.Context, all *errgroup.Group) error {
	if p.cfg.Prepare {
		if initialNamespace() {
			p.cfg.Log.Warn("the host's own network namespace: its sysctls and routes are left alone")
		} else if err := prepare(p.cfg.ServiceCIDRs, p.cfg.NodeIPs); err != nil {
			return err
		}
	}
	var links addresses
	if err := links.open(); err != nil {
		return err
	}
	defer links.close()
	p.mu.Lock()
	p.self.links, p.self.outbound = links.list(), outbound()
	p.mu.Unlock()
	p.keepState(ctx, all)
	if p.cfg.NodePortAddresses.Loopback() {
		p.relayLoopback(ctx, all)
	}
	k, err := p.openPlane()
	if err != nil {
		return err
	}
	defer k.close()
	all.Go(func() error { p.record(ctx); return nil })
	p.cfg.Metrics.ReadDrops(func() ([]metrics.Drop, error) { return p.drops(ctx) })
	if err := p.follow(ctx, all); err != nil {
		return err
	}
	synced, late := p.synced, time.After(apiAwayAfter)
	for {
		select {
		case <-synced:
			k.begin()
			close(p.ready)
			synced = nil
		case <-late:
			if synced != nil {
				k.away()
			}
		case <-p.wake:
			k.step(synced == nil)
		case u, ok := <-links.updates:
			if !ok { // something was missed
				if err := links.open(); err != nil {
					return err
				}
			} else if !links.take(u) {
				continue
			}
			p.mu.Lock()
			p.self.links, p.selfIs = links.list(), false
			p.mu.Unlock()
			p.poke()
		case ask := <-p.asks:
			ask(k)
		case <-k.sink.Lost():
			k.lost()
		case <-k.again():
			k.retry()
		case <-ctx.Done():
			return nil
		}
	}
}

// keepState begins to keep the last table on disk. A proxy that cannot does
// without: only a start while the API is away needs it.
func (p *Proxy) keepState(ctx context.Context, all *errgroup.Group) {
	if p.cfg.StateFile == "" {
		return
	}
	err := os.MkdirAll(filepath.Dir(p.cfg.StateFile), 0o700)
	if err == nil {
		p.state, err = laststate.Open(p.cfg.StateFile, p.cfg.Log)
	}
	if err != nil {
		p.cfg.Log.Warn("the last table is not kept on disk", "file", p.cfg.StateFile, "err", err)
		return
	}
	all.Go(func() error {
		if err := p.state.Run(ctx); err != nil {
			p.cfg.Log.Warn("the last table is not kept on disk any more", "file", p.cfg.StateFile, "err", err)
		}
		return nil
	})
}

// follow begins to be fed.
func (p *Proxy) follow(ctx context.Context, all *errgroup.Group) error {
	if p.cfg.Informers == nil {
		p.followAPI(ctx, all, func() { close(p.synced) })
		return nil
	}
	checks, err := p.followInformers()
	if err != nil {
		return err
	}
	p.cfg.Informers.Start(ctx.Done())
	all.Go(func() error {
		if cache.WaitFor(ctx, "", checks...) {
			close(p.synced)
		}
		return nil
	})
	return nil
}

// Ready is closed when everything that was known at the start is programmed.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

// Programmed is the newest revision of the API's objects that the kernel holds:
// the node's watermark. It stands still while the kernel refuses a part.
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

// poke has what changed programmed.
func (p *Proxy) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}
