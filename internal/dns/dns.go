package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"viaduct.dev/viaduct/internal/dns/zone"
)

// Config says what a node's DNS server is to be.
type Config struct {
	Informers informers.SharedInformerFactory
	// Domain is the cluster's, such as cluster.local.
	Domain string
	// Listen are the addresses to answer at, over UDP and TCP.
	Listen []netip.AddrPort
	// ServiceCIDRs and PodCIDRs are ranges whose reverse names are the
	// cluster's: unknown ones there do not exist, rather than being refused.
	ServiceCIDRs, PodCIDRs []netip.Prefix
	// Upstreams answer what is not the cluster's, in order; without any such
	// names are refused.
	Upstreams []netip.AddrPort
	// Dial reaches an upstream; nil dials from this process's own namespace.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// OnListening is told when the server begins to answer and when it ends.
	OnListening func(up bool)
	Log         *slog.Logger
}

const (
	// ttl is how long clients may keep an answer, in seconds (kubeadm's).
	ttl = 30
	// negativeTTL is how long they may keep that there is none.
	negativeTTL = 5
	// maxUDP bounds answers over UDP, in bytes: what passes every network whole.
	maxUDP = 1232
	// patience is how long a question waits for the first watch to be complete.
	patience = 5 * time.Second
)

type server struct {
	cfg    Config
	mu     sync.RWMutex // held to change the zone, and shared to read it
	zone   *zone.Zone
	synced chan struct{} // closed when the zone is complete
	ready  atomic.Bool
}

// Run answers until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	if len(cfg.Listen) == 0 {
		return errors.New("dns: no address to listen at")
	}
	s := &server{cfg: cfg, zone: zone.New(cfg.Domain), synced: make(chan struct{})}
	synced, err := s.follow()
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	servers, err := s.listen(ctx)
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, srv := range servers {
		g.Go(func() error {
			if err := srv.ActivateAndServe(); err != nil && ctx.Err() == nil {
				return fmt.Errorf("dns: serve: %w", err)
			}
			return nil
		})
	}
	g.Go(func() error {
		cfg.Informers.Start(ctx.Done())
		if !cache.WaitFor(ctx, "", synced...) {
			return nil
		}
		close(s.synced)
		s.ready.Store(true)
		return nil
	})
	g.Go(func() error {
		if cfg.OnListening != nil {
			cfg.OnListening(true)
			defer cfg.OnListening(false)
		}
		<-ctx.Done()
		// Questions that have been read are answered.
		stop, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		for _, srv := range servers {
			srv.ShutdownContext(stop)
		}
		return nil
	})
	return g.Wait()
}

// follow keeps the zone up to date.
func (s *server) follow() ([]cache.DoneChecker, error) {
	services, err := s.cfg.Informers.Core().V1().Services().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { s.change(func(z *zone.Zone) { z.SetService(o.(*corev1.Service)) }) },
		UpdateFunc: func(_, o any) { s.change(func(z *zone.Zone) { z.SetService(o.(*corev1.Service)) }) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if svc, ok := o.(*corev1.Service); ok {
				s.change(func(z *zone.Zone) { z.DeleteService(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}) })
			}
		},
	})
	if err != nil {
		return nil, err
	}
	slices, err := s.cfg.Informers.Discovery().V1().EndpointSlices().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { s.change(func(z *zone.Zone) { z.SetSlice(o.(*discoveryv1.EndpointSlice)) }) },
		UpdateFunc: func(_, o any) { s.change(func(z *zone.Zone) { z.SetSlice(o.(*discoveryv1.EndpointSlice)) }) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if slice, ok := o.(*discoveryv1.EndpointSlice); ok {
				s.change(func(z *zone.Zone) { z.DeleteSlice(slice) })
			}
		},
	})
	if err != nil {
		return nil, err
	}
	namespaces, err := s.cfg.Informers.Core().V1().Namespaces().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { s.change(func(z *zone.Zone) { z.SetNamespace(o.(*corev1.Namespace).Name) }) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if n, ok := o.(*corev1.Namespace); ok {
				s.change(func(z *zone.Zone) { z.DeleteNamespace(n.Name) })
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return []cache.DoneChecker{services.HasSyncedChecker(), slices.HasSyncedChecker(), namespaces.HasSyncedChecker()}, nil
}

func (s *server) change(fn func(*zone.Zone)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn(s.zone)
}

// listen opens every socket before any is served, so that a port in use is an
// error and not half a server.
func (s *server) listen(ctx context.Context) ([]*mdns.Server, error) {
	var servers []*mdns.Server
	fail := func(err error) ([]*mdns.Server, error) {
		for _, srv := range servers {
			if srv.PacketConn != nil {
				srv.PacketConn.Close()
			} else {
				srv.Listener.Close()
			}
		}
		return nil, err
	}
	var lc net.ListenConfig
	for _, a := range s.cfg.Listen {
		pc, err := lc.ListenPacket(ctx, "udp", a.String())
		if err != nil {
			return fail(fmt.Errorf("listen: %w", err))
		}
		servers = append(servers, &mdns.Server{PacketConn: pc, Handler: mdns.HandlerFunc(s.serveUDP), UDPSize: 4096})
		l, err := lc.Listen(ctx, "tcp", a.String())
		if err != nil {
			return fail(fmt.Errorf("listen: %w", err))
		}
		servers = append(servers, &mdns.Server{Listener: l, Handler: mdns.HandlerFunc(s.serveTCP)})
	}
	return servers, nil
}

func (s *server) serveUDP(w mdns.ResponseWriter, q *mdns.Msg) {
	size := mdns.MinMsgSize
	if o := q.IsEdns0(); o != nil {
		size = min(max(int(o.UDPSize()), mdns.MinMsgSize), maxUDP)
	}
	s.serve(w, q, size, "udp")
}

func (s *server) serveTCP(w mdns.ResponseWriter, q *mdns.Msg) { s.serve(w, q, mdns.MaxMsgSize, "tcp") }

func (s *server) serve(w mdns.ResponseWriter, q *mdns.Msg, size int, network string) {
	m := s.respond(q, network)
	if m == nil {
		return
	}
	m.Compress = true
	m.Truncate(size)
	if err := w.WriteMsg(m); err != nil {
		s.cfg.Log.Debug("an answer was not sent", "to", w.RemoteAddr(), "err", err)
	}
}

// wait holds a question back until the zone is complete: at a start, an answer
// that a name does not exist would be a lie.
func (s *server) wait() bool {
	if s.ready.Load() {
		return true
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-s.synced:
		return true
	case <-timer.C:
		return false
	}
}

var shuffler = sync.Pool{New: func() any { return rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) }}

// shuffle gives clients that take the first address different ones.
func shuffle(all []zone.Record) {
	if len(all) < 2 {
		return
	}
	r := shuffler.Get().(*rand.Rand)
	defer shuffler.Put(r)
	start := 0
	for start < len(all) && all[start].Type == zone.CNAME {
		start++ // an alias stays ahead of what it leads to
	}
	rest := all[start:]
	r.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
}
