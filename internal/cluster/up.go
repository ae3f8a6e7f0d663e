package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/cluster/control"
	"viaduct.dev/viaduct/internal/cluster/fabric"
	"viaduct.dev/viaduct/internal/cluster/supervisor"
	"viaduct.dev/viaduct/internal/kernel"
)

// The API's port on the host is the first of these that is free. They are below
// those that the kernel gives to outgoing connections: a cluster that is resumed
// must get its port again.
const (
	firstAPIPort = 6443
	lastAPIPort  = 6542
)

// apiPortPatience is how long a cluster that is resumed waits for its port: it
// may be that of a connection which is about to end.
const apiPortPatience = 2 * time.Second

// UpOptions say how a cluster is brought up.
type UpOptions struct {
	Dir box.Dir
	// Spec is what was asked for. Of a cluster that is there, the stored one
	// holds, and Differs names the first flag that asks for something else.
	Spec    box.Spec
	Differs func(stored box.Spec) error

	// Foreground runs the supervisor in this process, until ctx ends.
	Foreground bool
	// Wait is how long to wait for the cluster to be ready.
	Wait time.Duration
	// Program is viaduct itself, which also runs the nodes.
	Program string
	// Out gets a line for each step.
	Out   io.Writer
	Began time.Time
}

// Up brings a cluster up: a new one, or a dead one again. One that runs already
// is only waited for.
func Up(ctx context.Context, o UpOptions) error {
	if os.Geteuid() != 0 {
		return errors.New("up: a cluster in a box needs root: network namespaces, mounts, cgroups")
	}
	resumed, err := settle(&o)
	if err != nil {
		return err
	}
	if err := kernel.Check(kernel.Namespaces, kernel.Overlay, kernel.Cgroups, kernel.NFTables); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	made := false
	if _, err := os.Stat(string(o.Dir)); errors.Is(err, os.ErrNotExist) {
		made = true
	}
	if err := os.MkdirAll(string(o.Dir), 0o700); err != nil {
		return fmt.Errorf("up: make the state directory: %w", err)
	}
	lock, err := lock(o.Dir)
	if errors.Is(err, errBusy) {
		fmt.Fprintf(o.Out, "cluster %s is running\n", o.Spec.Name)
		if err := follow(ctx, o, false); err != nil {
			return fmt.Errorf("up: %w", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("up: %w", err)
	}
	defer lock.Close()
	// What a dead supervisor left running has the port that is wanted now.
	if err := endPredecessors(ctx, o.Dir); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	cfg, err := take(ctx, &o, resumed)
	if err != nil {
		if made {
			_ = os.Remove(o.Dir.Lock())
			_ = os.Remove(string(o.Dir)) // only if nothing is in it
		}
		return fmt.Errorf("up: %w", err)
	}
	cfg.Lock = lock
	if resumed {
		fmt.Fprintf(o.Out, "resuming cluster %s\n", o.Spec.Name)
	} else {
		fmt.Fprintf(o.Out, "starting cluster %s: %d node(s)\n", o.Spec.Name, o.Spec.Nodes)
	}
	if err := start(ctx, o, cfg); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	return nil
}

// start makes what the supervisor needs, starts it, makes what the nodes need
// while their processes start, and waits for the cluster.
func start(ctx context.Context, o UpOptions, cfg supervisor.Config) error {
	log, err := openLog(o.Dir)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer log.Close()
	cfg.Output = log
	p := &preparation{o: o, log: NewLogger(log).With("part", "up")}
	if err := p.first(); err != nil {
		return err
	}
	defer p.network.Close()
	if o.Foreground {
		return inForeground(ctx, o, cfg, p)
	}
	program, err := installSupervisor(o.Dir)
	if err != nil {
		return err
	}
	prepared, err := supervisor.StartInBackground(program, cfg)
	if err != nil {
		return err
	}
	defer prepared.Close()
	if err := p.rest(ctx); err != nil {
		return err
	}
	if _, err := prepared.Write([]byte{1}); err != nil {
		return fmt.Errorf("the daemon has ended; its log is %s", o.Dir.Log())
	}
	return follow(ctx, o, true)
}

// settle replaces the settings by the stored ones of a cluster that is there.
func settle(o *UpOptions) (resumed bool, err error) {
	stored, err := o.Dir.Load()
	switch {
	case err == nil:
		if err := o.Differs(stored); err != nil {
			return true, fmt.Errorf("up: cluster %s is there already: %w", stored.Name, err)
		}
		o.Spec = stored
		return true, nil
	case !errors.Is(err, box.ErrNoCluster):
		return false, fmt.Errorf("up: %w", err)
	}
	if err := o.Spec.Validate(); err != nil {
		return false, fmt.Errorf("up: %w", err)
	}
	return false, nil
}

// take takes what only one cluster can have: the name and the API's port.
func take(ctx context.Context, o *UpOptions, resumed bool) (supervisor.Config, error) {
	var cfg supervisor.Config
	owner, err := fabric.Owner(o.Spec.Name)
	if err != nil {
		return cfg, err
	}
	if owner != "" && owner != o.Dir {
		return cfg, fmt.Errorf("the name %s is in use by the cluster in %s; choose another with --name", o.Spec.Name, owner)
	}
	api, err := listenAPI(ctx, o.Dir, o.Spec.APIPort, resumed)
	if err != nil {
		return cfg, err
	}
	o.Spec.APIPort = uint16(api.Addr().(*net.TCPAddr).Port)
	socket, err := control.Listen(o.Dir.Socket())
	if err != nil {
		api.Close()
		return cfg, err
	}
	if err := o.Dir.Save(o.Spec); err != nil {
		api.Close()
		socket.Close()
		return cfg, err
	}
	return supervisor.Config{Dir: o.Dir, Spec: o.Spec, Control: socket, API: api, Program: o.Program}, nil
}

func listenAPI(ctx context.Context, dir box.Dir, port uint16, resumed bool) (*net.TCPListener, error) {
	listen := func(port uint16) (*net.TCPListener, error) {
		return net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)})
	}
	if port == 0 {
		kept := keptPorts(dir)
		for port := uint16(firstAPIPort); port <= lastAPIPort; port++ {
			if kept[port] {
				continue
			}
			if l, err := listen(port); err == nil {
				return l, nil
			}
		}
		return listen(0)
	}
	patient, cancel := context.WithTimeout(ctx, apiPortPatience)
	defer cancel()
	for {
		l, err := listen(port)
		if !errors.Is(err, unix.EADDRINUSE) {
			return l, err
		}
		if !resumed {
			return nil, fmt.Errorf("the API's port 127.0.0.1:%d is taken by another program; choose another with --api-port, or 0 for any", port)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-patient.Done():
			return nil, fmt.Errorf("the API's port 127.0.0.1:%d, which this cluster has had, is taken by another program; end that program, or make the cluster anew", port)
		}
	}
}

// keptPorts are the API ports of all clusters that can be found. One that is
// dead wants its port again when it is resumed.
func keptPorts(dir box.Dir) map[uint16]bool {
	kept := map[uint16]bool{}
	siblings, _ := filepath.Glob(filepath.Join(filepath.Dir(string(dir)), "*"))
	for _, sibling := range siblings {
		if spec, err := box.Dir(sibling).Load(); err == nil {
			kept[spec.APIPort] = true
		}
	}
	for _, other := range fabric.Owners() {
		if spec, err := other.Load(); err == nil {
			kept[spec.APIPort] = true
		}
	}
	return kept
}

// inForeground runs the supervisor here, until ctx ends.
func inForeground(ctx context.Context, o UpOptions, cfg supervisor.Config, p *preparation) error {
	// The supervisor closes the lock when it ends; the caller closes its own.
	var err error
	if cfg.Lock, err = dup(cfg.Lock); err != nil {
		return err
	}
	prepared := make(chan struct{})
	cfg.Prepared, cfg.Log = prepared, NewLogger(cfg.Output).With("part", "supervisor")
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan error, 1)
	go func() { ended <- supervisor.Run(ctx, cfg) }()
	if err := p.rest(ctx); err != nil {
		cancel(err)
		return <-ended
	}
	close(prepared)
	if err := follow(ctx, o, true); err != nil && ctx.Err() == nil {
		cancel(err)
	}
	return <-ended
}

func dup(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// report prints a step that has just been done.
func (o UpOptions) report(step string, took time.Duration) {
	fmt.Fprintf(o.Out, "  %7.3f s  %-40s %s\n", time.Since(o.Began).Seconds(), step, took.Round(100*time.Microsecond))
}

// because names the nodes that are not ready and how their processes ended.
func because(ctx context.Context, dir box.Dir) string {
	status, err := Inspect(ctx, dir)
	if err != nil {
		return ""
	}
	text := ""
	for _, n := range status.Nodes {
		if !n.Ready && n.Error != "" {
			text += fmt.Sprintf("; %s ended: %s", n.Name, n.Error)
		}
	}
	return text
}

// WhyNotReady says in a line what keeps the cluster in dir from answering, or
// nothing if it is ready or cannot be asked.
func WhyNotReady(ctx context.Context, dir box.Dir) string {
	status, err := Inspect(ctx, dir)
	switch {
	case err != nil || status.State == StateReady:
		return ""
	case status.State == StateStopped:
		return fmt.Sprintf("cluster %s is stopped; `viaduct up` resumes it", status.Name)
	}
	return fmt.Sprintf("cluster %s is not ready%s; its log is %s", status.Name, because(ctx, dir), dir.Log())
}

// follow prints what happens until the cluster is ready.
func follow(ctx context.Context, o UpOptions, steps bool) error {
	waiting, cancel := context.WithTimeout(ctx, o.Wait)
	defer cancel()
	client := control.NewClient(o.Dir.Socket())
	report := func(e control.Event) {
		if !steps {
			return
		}
		name := e.Step
		if e.Node != "" {
			name = e.Node + ": " + e.Step
		}
		o.report(name, e.Took)
	}
	for {
		err := client.Follow(waiting, report)
		switch {
		case err == nil:
			fmt.Fprintf(o.Out, "cluster %s is ready after %.3f s: the API is at https://127.0.0.1:%d\n", o.Spec.Name, time.Since(o.Began).Seconds(), o.Spec.APIPort)
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case waiting.Err() != nil:
			return fmt.Errorf("cluster %s is not ready after %s%s; its log is %s", o.Spec.Name, o.Wait, because(ctx, o.Dir), o.Dir.Log())
		case errors.Is(err, control.ErrNotRunning) && running(o.Dir):
			// Another `up` holds the lock and has no socket yet.
			select {
			case <-time.After(5 * time.Millisecond):
			case <-waiting.Done():
			}
		default:
			return fmt.Errorf("%w; its log is %s", err, o.Dir.Log())
		}
	}
}
