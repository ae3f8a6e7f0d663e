package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/cluster/control"
	"viaduct.dev/viaduct/internal/cluster/fabric"
	"viaduct.dev/viaduct/internal/cluster/supervisor"
	"viaduct.dev/viaduct/internal/kernel"
)

// The descriptors that a supervisor in the background begins with.
const (
	fdLock = 3 + iota
	fdControl
	fdAPI
)

// defaultAPIPort is the API's port on the host where it is free.
const defaultAPIPort = 6443

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
	// SupervisorCommand and NodeCommand are program and arguments; Dir is added,
	// and for a node its name.
	SupervisorCommand, NodeCommand []string
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
		return follow(ctx, o, false)
	}
	if err != nil {
		return fmt.Errorf("up: %w", err)
	}
	defer lock.Close()
	cfg, err := prepare(&o)
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
	if o.Foreground {
		return inForeground(ctx, o, cfg)
	}
	if err := inBackground(o, cfg); err != nil {
		return fmt.Errorf("up: %w", err)
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

// prepare takes what only one cluster can have: the name and the API's port.
func prepare(o *UpOptions) (supervisor.Config, error) {
	var cfg supervisor.Config
	owner, err := fabric.Owner(o.Spec.Name)
	if err != nil {
		return cfg, err
	}
	if owner != "" && owner != o.Dir {
		return cfg, fmt.Errorf("the name %s is in use by the cluster in %s; choose another with --name", o.Spec.Name, owner)
	}
	api, err := listenAPI(o.Spec.APIPort)
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
	return supervisor.Config{Dir: o.Dir, Spec: o.Spec, Control: socket, API: api, NodeCommand: append(o.NodeCommand, string(o.Dir)), Began: o.Began}, nil
}

func listenAPI(port uint16) (*net.TCPListener, error) {
	listen := func(port uint16) (*net.TCPListener, error) {
		return net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)})
	}
	if port != 0 {
		l, err := listen(port)
		if errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("the API's port 127.0.0.1:%d is taken by another program; choose another with --api-port, or 0 for any", port)
		}
		return l, err
	}
	if l, err := listen(defaultAPIPort); err == nil {
		return l, nil
	}
	return listen(0)
}

// openLog opens the log; one that has grown large is set aside first.
func openLog(dir box.Dir) (*os.File, error) {
	const large = 32 << 20
	if info, err := os.Stat(dir.Log()); err == nil && info.Size() > large {
		_ = os.Rename(dir.Log(), dir.Log()+".old")
	}
	return os.OpenFile(dir.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// NewLogger is how the processes of a box log: a file is for machines.
func NewLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewJSONHandler(w, nil)) }

// inBackground starts the supervisor as a daemon, which keeps none of the
// caller's descriptors, session or directory.
func inBackground(o UpOptions, cfg supervisor.Config) error {
	defer cfg.Control.Close()
	defer cfg.API.Close()
	log, err := openLog(o.Dir)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer log.Close()
	socket, err := cfg.Control.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	api, err := cfg.API.File()
	if err != nil {
		return err
	}
	defer api.Close()
	// Descriptors that the caller left open in this process must not pass on.
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keep the caller's descriptors back: %w", err)
	}
	cmd := exec.Command(o.SupervisorCommand[0], append(o.SupervisorCommand[1:], string(o.Dir))...)
	cmd.Args[0] = "viaduct"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{cfg.Lock, socket, api} // fdLock, fdControl, fdAPI
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	return cmd.Process.Release()
}

// Supervise is the daemon that inBackground starts.
func Supervise(ctx context.Context, dir box.Dir, nodeCommand []string, began time.Time) error {
	spec, err := dir.Load()
	if err != nil {
		return err
	}
	lock := os.NewFile(fdLock, "lock")
	unix.CloseOnExec(fdLock)
	socket, err := inherited(fdControl)
	if err != nil {
		return fmt.Errorf("supervisor: it is started by `viaduct up`: %w", err)
	}
	api, err := inherited(fdAPI)
	if err != nil {
		return fmt.Errorf("supervisor: it is started by `viaduct up`: %w", err)
	}
	control, okControl := socket.(*net.UnixListener)
	listener, okAPI := api.(*net.TCPListener)
	if !okControl || !okAPI {
		return errors.New("supervisor: it is started by `viaduct up`")
	}
	control.SetUnlinkOnClose(false)
	return supervisor.Run(ctx, supervisor.Config{
		Dir: dir, Spec: spec, Lock: lock, Control: control, API: listener,
		NodeCommand: append(nodeCommand, string(dir)), Output: os.Stderr,
		Log: NewLogger(os.Stderr).With("part", "supervisor"), Began: began,
	})
}

func inherited(fd uintptr) (net.Listener, error) {
	f := os.NewFile(fd, "inherited")
	defer f.Close()
	return net.FileListener(f)
}

// inForeground runs the supervisor here.
func inForeground(ctx context.Context, o UpOptions, cfg supervisor.Config) error {
	log, err := openLog(o.Dir)
	if err != nil {
		cfg.API.Close()
		cfg.Control.Close()
		return fmt.Errorf("up: open the log: %w", err)
	}
	defer log.Close()
	cfg.Output, cfg.Log = log, NewLogger(log).With("part", "supervisor")
	if cfg.Lock, err = dup(cfg.Lock); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- supervisor.Run(ctx, cfg) }()
	if err := follow(ctx, o, true); err != nil && ctx.Err() == nil {
		select {
		case failed := <-ended:
			return failed
		default:
			fmt.Fprintln(o.Out, err)
		}
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
		fmt.Fprintf(o.Out, "  %7.3f s  %-40s %s\n", time.Since(o.Began).Seconds(), name, e.Took.Round(100*time.Microsecond))
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
			return fmt.Errorf("up: cluster %s is not ready after %s; its log is %s", o.Spec.Name, o.Wait, o.Dir.Log())
		case errors.Is(err, control.ErrNotRunning) && running(o.Dir):
			// Another `up` holds the lock and has no socket yet.
			select {
			case <-time.After(5 * time.Millisecond):
			case <-waiting.Done():
			}
		default:
			return fmt.Errorf("up: %w; its log is %s", err, o.Dir.Log())
		}
	}
}
