package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/rest"

	"viaduct.dev/viaduct/internal/apiserver/registry"
	"viaduct.dev/viaduct/internal/apiserver/scheme"
	"viaduct.dev/viaduct/internal/apiserver/store"
)

// Config says what the server of a cluster is to be.
type Config struct {
	// DataDir holds the objects. It is made if it is missing; one process at a
	// time may use it.
	DataDir string
	// Listeners are where TLS is served. The server closes them. There may be
	// none: then it is reached through ClientConfig alone.
	Listeners []net.Listener
	// ServingCert and ServingKey are the server's certificate, in PEM.
	ServingCert, ServingKey []byte
	// ClientCA, in PEM, signed the certificates of all clients. Whoever has one
	// may do everything.
	ClientCA []byte
	// AgentTLS is how the server is a client of the agents, for logs and exec.
	AgentTLS *tls.Config

	// ServiceCIDRs are the ranges of cluster IPs, the primary family first.
	ServiceCIDRs []netip.Prefix
	// ServiceNodePortRange is the range of node ports; 30000-32767 if it is
	// empty.
	ServiceNodePortRange utilnet.PortRange
	// AdvertiseAddresses and AdvertisePort are behind the Service
	// default/kubernetes. Without addresses there is no such Service.
	AdvertiseAddresses []netip.Addr
	AdvertisePort      uint16

	Log *slog.Logger
}

// Server is the API of a cluster. Once made it must be Run, which also takes it
// down.
type Server struct {
	log       *slog.Logger
	store     *store.Store
	generic   *genericapiserver.GenericAPIServer
	transport *transport
	resources *registry.Resources
	self      self
	ready     chan struct{}
}

const (
	// Watches are told to end at a shutdown, and given this long.
	watchDrain = time.Second
	// Requests in flight are given this long.
	requestDrain = 3 * time.Second
	// A kind's storage is ready within milliseconds of etcd.
	storagePoll = 5 * time.Millisecond
)

// New starts the store and makes everything that the server needs; it serves
// nothing yet.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if err := validate(cfg); err != nil {
		return nil, fmt.Errorf("api server: %w", err)
	}
	routeKlog(cfg.Log)
	// etcd waits for its disk and its election: meanwhile the types are made.
	opening := make(chan struct{})
	var (
		objects  *store.Store
		storeErr error
	)
	go func() {
		defer close(opening)
		objects, storeErr = store.Open(ctx, store.Config{Dir: cfg.DataDir, Log: cfg.Log})
	}()
	known, err := scheme.New()
	var generic *genericapiserver.Config
	if err == nil {
		generic, err = genericConfig(cfg, known)
	}
	<-opening
	if err := errors.Join(err, storeErr); err != nil {
		if objects != nil {
			objects.Close()
		}
		return nil, fmt.Errorf("api server: %w", err)
	}
	s := &Server{
		log:       cfg.Log,
		store:     objects,
		transport: &transport{user: superuser()},
		resources: &registry.Resources{},
		self:      newSelf(cfg),
		ready:     make(chan struct{}),
	}
	if err := s.assemble(cfg, known, generic); err != nil {
		objects.Close()
		return nil, fmt.Errorf("api server: %w", err)
	}
	return s, nil
}

// ClientConfig is for clients in this process: no socket, no TLS, protobuf, and
// allowed everything. Requests pass through all of the server's filters. Each
// call returns a configuration of its own. What upgrades its connection (exec)
// needs a real one.
func (s *Server) ClientConfig() *rest.Config { return s.transport.clientConfig() }

// Ready is closed when the server answers and its default objects are there.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends, then drains requests and stops the store. It
// returns an error if the server could not start or could not go on. When that
// is for want of a disk, requests may still hang: the process should end.
func (s *Server) Run(ctx context.Context) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	prepared := s.generic.PrepareRun()
	serving := result(func() error { return prepared.RunWithContext(running) })
	starting := result(func() error { return s.start(running) })
	keeping := result(func() error { return s.keep(running) })

	var err error
	var failed bool
	for pending := starting; err == nil && !failed && running.Err() == nil; {
		select {
		case err = <-pending:
			if err == nil {
				close(s.ready)
				pending = nil
			}
		case err = <-serving:
			stop()
		case err = <-s.store.Failed():
			failed = true
		case <-running.Done():
		}
	}
	stop()
	if failed {
		select {
		case <-serving:
		case <-time.After(requestDrain):
		}
	} else {
		err = errors.Join(err, <-serving, <-starting, <-keeping)
	}
	s.store.Close()
	if err == nil || ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("api server: %w", err)
}

// result runs f and yields what it returns once, and nil ever after.
func result(f func() error) <-chan error {
	out := make(chan error, 1)
	go func() {
		defer close(out)
		out <- f()
	}()
	return out
}

// start waits for the storage of every kind and runs their hooks.
func (s *Server) start(ctx context.Context) error {
	if err := s.waitForStorage(ctx); err != nil {
		return err
	}
	for _, hook := range s.resources.Hooks() {
		if err := hook.Run(ctx); err != nil {
			return fmt.Errorf("start: %s: %w", hook.Name, err)
		}
	}
	if !s.resources.Serves(corev1.SchemeGroupVersion, "services") {
		return nil
	}
	client, err := registry.Client(s.ClientConfig())
	if err != nil {
		return err
	}
	return s.self.ensure(ctx, client)
}

// keep restores default/kubernetes for as long as the server runs.
func (s *Server) keep(ctx context.Context) error {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return nil
	}
	if !s.resources.Serves(corev1.SchemeGroupVersion, "services") {
		return nil
	}
	client, err := registry.Client(s.ClientConfig())
	if err != nil {
		return err
	}
	s.self.keep(ctx, client, selfInterval, s.log)
	return nil
}

func superuser() user.Info {
	return &user.DefaultInfo{Name: "system:apiserver", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}
}
