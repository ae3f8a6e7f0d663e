package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"viaduct.dev/viaduct/internal/agent/runtime/builtin"
	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/cluster/control"
	"viaduct.dev/viaduct/internal/cluster/fabric"
	"viaduct.dev/viaduct/internal/images"
	"viaduct.dev/viaduct/internal/pki"
)

// Config is what a supervisor needs. It closes the files and listeners.
type Config struct {
	Dir  box.Dir
	Spec box.Spec
	// Lock is the open lock file of the cluster, held.
	Lock *os.File
	// Control is the control socket, API the API's port on the host.
	Control *net.UnixListener
	API     *net.TCPListener
	// NodeCommand is the program and the arguments that run a node; its name is
	// added.
	NodeCommand []string
	// Output is where the nodes' processes write their log.
	Output *os.File
	Log    *slog.Logger
	// Began is when the whole began, for the log.
	Began time.Time
}

// supervisor is one run.
type supervisor struct {
	cfg    Config
	log    *slog.Logger
	stop   context.CancelFunc
	events *events
	ports  *ports
	store  *images.Store

	mu        sync.Mutex // guards what follows
	nodes     []*node    // fixed once made
	serving   bool       // the API has answered
	connected chan struct{}
}

// Run runs a box until ctx ends or it is asked to stop. The nodes' processes
// end with it; containers and what the kernel holds go on.
func Run(ctx context.Context, cfg Config) error {
	defer cfg.Lock.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s := &supervisor{
		cfg: cfg, log: cfg.Log, stop: stop,
		events:    newEvents(),
		ports:     newPorts(cfg.Log),
		connected: make(chan struct{}),
	}
	for _, name := range cfg.Spec.NodeNames() {
		s.nodes = append(s.nodes, &node{name: name, first: len(s.nodes) == 0, supervisor: s})
	}
	defer s.ports.closeAll()
	defer cfg.API.Close()

	serving, stopServing := s.serve(cfg.Control)
	defer func() { stopServing(); <-serving }()

	err := s.run(ctx)
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = nil
	}
	if err != nil {
		s.events.add(control.Event{Error: err.Error()})
		return fmt.Errorf("supervisor: %w", err)
	}
	s.events.add(control.Event{Error: "the cluster was stopped"})
	return nil
}

func (s *supervisor) run(ctx context.Context) error {
	if err := s.succeed(ctx); err != nil {
		return err
	}
	network, err := timed(s, "network namespaces", func() (*fabric.Fabric, error) {
		return fabric.Open(s.cfg.Dir, s.cfg.Spec)
	})
	if err != nil {
		return err
	}
	defer network.Close()

	all, ctx := errgroup.WithContext(ctx)
	// The nodes' processes take a while to start; what they need when they have
	// is made in that time.
	prepared := make(chan struct{})
	all.Go(func() error {
		preparing, ctx := errgroup.WithContext(ctx)
		preparing.Go(func() error {
			_, err := timed(s, "network", func() (any, error) { return nil, network.Cable() })
			return err
		})
		preparing.Go(func() error {
			_, err := timed(s, "certificates", func() (any, error) { return nil, s.certificates() })
			return err
		})
		preparing.Go(func() error {
			_, err := timed(s, "toolbox image", func() (any, error) { return nil, s.images(ctx) })
			return err
		})
		if err := preparing.Wait(); err != nil {
			return err
		}
		close(prepared)
		return nil
	})
	for _, n := range s.nodes {
		all.Go(func() error { return n.run(ctx, network.Nodes[n.name], prepared) })
	}
	return all.Wait()
}

// succeed ends what a predecessor left running, and records this process.
func (s *supervisor) succeed(ctx context.Context) error {
	self, err := box.NewProcess(box.RoleSupervisor, "", os.Getpid())
	if err != nil {
		return err
	}
	for _, p := range s.cfg.Dir.Processes() {
		if p.Role == box.RoleShim || p.PID == self.PID {
			continue
		}
		for p.Kill(); p.Alive(); {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(2 * time.Millisecond):
			}
		}
	}
	return s.cfg.Dir.SaveProcesses([]box.Process{self})
}

// recordProcesses stores which processes there are, for whoever comes after a
// crash.
func (s *supervisor) recordProcesses() {
	self, err := box.NewProcess(box.RoleSupervisor, "", os.Getpid())
	if err != nil {
		s.log.Error("record the processes", "err", err)
		return
	}
	all := []box.Process{self}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		if n.process.PID != 0 {
			all = append(all, n.process)
		}
	}
	if err := s.cfg.Dir.SaveProcesses(all); err != nil {
		s.log.Error("record the processes", "err", err)
	}
}

// certificates makes whatever certificate the box needs, and the kubeconfig.
func (s *supervisor) certificates() error {
	spec := s.cfg.Spec
	ca, err := pki.Open(s.cfg.Dir.PKI())
	if err != nil {
		return err
	}
	if _, err := ca.Ensure("apiserver", pki.APIServer(spec.NodeAddresses(1), spec.ServiceCIDRs, spec.Domain)); err != nil {
		return err
	}
	if _, err := ca.Ensure("apiserver-agent-client", pki.Client("kube-apiserver", "system:masters")); err != nil {
		return err
	}
	admin, err := ca.Ensure("admin", pki.Client("viaduct-admin", "system:masters"))
	if err != nil {
		return err
	}
	for i, name := range spec.NodeNames() {
		if _, err := ca.Ensure(name, pki.Node(name)); err != nil {
			return err
		}
		if _, err := ca.Ensure(name+"-serving", pki.Agent(name, spec.NodeAddresses(i+1))); err != nil {
			return err
		}
	}
	kubeconfig, err := pki.Kubeconfig("viaduct-"+spec.Name, "https://"+s.cfg.API.Addr().String(), ca.CertPEM(), admin)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(s.cfg.Dir.Kubeconfig()); err == nil && string(old) == string(kubeconfig) {
		return nil
	}
	if err := box.ReplaceFile(s.cfg.Dir.Kubeconfig(), kubeconfig, 0o600); err != nil {
		return fmt.Errorf("write the kubeconfig: %w", err)
	}
	return nil
}

func (s *supervisor) images(ctx context.Context) error {
	store, err := images.Open(s.cfg.Dir.Images())
	if err != nil {
		return err
	}
	toolbox, err := builtin.Toolbox()
	if err != nil {
		return err
	}
	if err := store.EnsureToolbox(ctx, toolbox); err != nil {
		return err
	}
	s.mu.Lock()
	s.store = store
	s.mu.Unlock()
	return nil
}

// timed does one step of the way up and tells how long it took.
func timed[T any](s *supervisor, step string, do func() (T, error)) (T, error) {
	begin := time.Now()
	result, err := do()
	if err != nil {
		return result, err
	}
	s.step("", step, time.Since(begin))
	return result, nil
}

func (s *supervisor) step(node, name string, took time.Duration) {
	s.log.Info("step", "step", name, "of", node, "took", took.Round(time.Microsecond), "since", time.Since(s.cfg.Began).Round(time.Microsecond))
	s.events.add(control.Event{Node: node, Step: name, Took: took})
}

// readyChanged looks whether every node is ready, and tells it once it is so.
func (s *supervisor) readyChanged() {
	s.mu.Lock()
	ready := s.ready()
	s.mu.Unlock()
	s.events.setReady(ready)
}

// ready says whether every node is; the caller holds mu.
func (s *supervisor) ready() bool {
	for _, n := range s.nodes {
		if !n.ready {
			return false
		}
	}
	return true
}
