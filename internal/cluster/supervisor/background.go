package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/cluster/box"
)

// The descriptors that a supervisor in the background begins with.
const (
	fdLock = 3 + iota
	fdControl
	fdAPI
	fdPrepared
	fdProgram
)

// errAbandoned says that whoever started the supervisor did not finish.
var errAbandoned = errors.New("the command that started it ended before everything was prepared")

// StartInBackground starts the supervisor's own program as a daemon that keeps
// none of the caller's descriptors, session or directory. The file it returns
// is to be written to when all is prepared; closing it without that ends the
// supervisor. cfg's files are closed.
func StartInBackground(program string, cfg Config) (*os.File, error) {
	defer cfg.Control.Close()
	defer cfg.API.Close()
	socket, err := cfg.Control.File()
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	api, err := cfg.API.File()
	if err != nil {
		return nil, err
	}
	defer api.Close()
	viaduct, err := os.Open(cfg.Program)
	if err != nil {
		return nil, err
	}
	defer viaduct.Close()
	wait, tell, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer wait.Close()
	// Descriptors that the caller left open in this process must not pass on.
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("keep the caller's descriptors back: %w", err)
	}
	cmd := exec.Command(program, string(cfg.Dir))
	cmd.Args[0] = "viaduct-supervisor"
	cmd.Stdout, cmd.Stderr = cfg.Output, cfg.Output
	cmd.ExtraFiles = []*os.File{cfg.Lock, socket, api, wait, viaduct} // as the constants say
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		tell.Close()
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	return tell, cmd.Process.Release()
}

// RunInBackground is the program that StartInBackground starts.
func RunInBackground(ctx context.Context, dir box.Dir, log *slog.Logger) error {
	spec, err := dir.Load()
	if err != nil {
		return fmt.Errorf("supervisor: %w", err)
	}
	for fd := fdLock; fd <= fdProgram; fd++ {
		unix.CloseOnExec(fd)
	}
	cfg := Config{Dir: dir, Spec: spec, Output: os.Stderr, Log: log, Lock: os.NewFile(fdLock, "lock")}
	var okControl, okAPI bool
	if l, err := inherited(fdControl); err == nil {
		cfg.Control, okControl = l.(*net.UnixListener)
	}
	if l, err := inherited(fdAPI); err == nil {
		cfg.API, okAPI = l.(*net.TCPListener)
	}
	if !okControl || !okAPI {
		return errors.New("supervisor: it is started by `viaduct up`")
	}
	cfg.Control.SetUnlinkOnClose(false) // by then the name may be a successor's
	// The program is the one that started this, whatever becomes of its file.
	cfg.Program = fmt.Sprintf("/proc/self/fd/%d", fdProgram)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	prepared := make(chan struct{})
	cfg.Prepared = prepared
	go func() { // ends with the writer
		f := os.NewFile(fdPrepared, "prepared")
		defer f.Close()
		if n, _ := f.Read(make([]byte, 1)); n == 0 {
			cancel(errAbandoned)
			return
		}
		close(prepared)
	}()
	return Run(ctx, cfg)
}

func inherited(fd uintptr) (net.Listener, error) {
	f := os.NewFile(fd, "inherited")
	defer f.Close()
	return net.FileListener(f)
}
