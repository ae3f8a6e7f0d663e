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

	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/cluster/control"
	"viaduct.dev/viaduct/internal/lab"
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
	// Program is what runs nodes and pulls images: viaduct itself.
	Program string
	// Prepared is closed when the nodes have their network, certificates and
	// images. Their namespaces are there before.
	Prepared <-chan struct{}
	// Output is where the nodes' processes write their log.
	Output *os.File
	Log    *slog.Logger
}

// supervisor is one run.
type supervisor struct {
	cfg    Config
	log    *slog.Logger
	began  time.Time
	stop   context.CancelFunc
	events *events
	ports  *ports

	mu        sync.Mutex    // guards what follows
	nodes     []*node       // fixed once made
	serving   bool          // the API has answered
	connected chan struct{} // closed then
}

// Run runs a box until ctx ends or it is asked to stop. The nodes' processes
// end with it; containers and what the kernel holds go on.
func Run(ctx context.Context, cfg Config) error {
	defer cfg.Lock.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s := &supervisor{
		cfg: cfg, log: cfg.Log, stop: stop, began: time.Now(),
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

	s.recordProcesses()
	err := s.run(ctx)
	if ctx.Err() != nil {
		err = nil
		if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
			err = cause
		}
	}
	if err != nil {
		s.events.add(control.Event{Error: err.Error()})
		return fmt.Errorf("supervisor: %w", err)
	}
	s.events.add(control.Event{Error: "the cluster was stopped"})
	return nil
}

// run keeps every node's process alive until ctx ends or one cannot be.
func (s *supervisor) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for _, n := range s.nodes {
		ns, err := lab.Open(box.NodeNamespace(s.cfg.Spec.Name, n.name))
		if err != nil {
			cancel(err)
			break
		}
		all.Go(func() {
			defer ns.Close()
			if err := n.run(ctx, ns, s.cfg.Prepared); err != nil {
				cancel(err)
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
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

func (s *supervisor) step(node, name string, took time.Duration) {
	s.log.Info("step", "node", node, "step", name, "took", took.String(), "since", time.Since(s.began).String())
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
