package builtin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/agent/runtime"
	"viaduct.dev/viaduct/internal/agent/runtime/builtin/shimapi"
)

// Runtime makes Pods held by shims. It implements runtime.Runtime.
type Runtime struct {
	shim string
}

var _ runtime.Runtime = (*Runtime)(nil)

// New prepares a runtime; dir is where the shim's program is put. It returns
// ErrNotBuilt where the binary does not carry it.
func New(dir string) (*Runtime, error) {
	shim, err := installShim(dir)
	if err != nil {
		return nil, err
	}
	return &Runtime{shim: shim}, nil
}

// runtimeDir is where this package keeps its files of a Pod.
func runtimeDir(stateDir string) string { return filepath.Join(stateDir, "runtime") }

// CreatePod implements runtime.Runtime.
func (r *Runtime) CreatePod(ctx context.Context, cfg runtime.PodConfig) (runtime.Pod, error) {
	dir := runtimeDir(cfg.StateDir)
	if conn, err := shimapi.Dial(dir); err == nil {
		conn.Close()
		return nil, fmt.Errorf("create pod %s/%s: %s holds a live pod", cfg.Namespace, cfg.Name, cfg.StateDir)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("create pod %s/%s: %w", cfg.Namespace, cfg.Name, err)
	}
	text, err := json.Marshal(cfg)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "pod.json"), text, 0o600)
	}
	if err == nil {
		err = r.startShim(ctx, dir, cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("create pod %s/%s: %w", cfg.Namespace, cfg.Name, err)
	}
	return r.OpenPod(ctx, cfg.StateDir)
}

// startShim starts the Pod's shim in its namespaces and waits until it serves.
func (r *Runtime) startShim(ctx context.Context, dir string, cfg runtime.PodConfig) error {
	log, err := os.OpenFile(filepath.Join(dir, "shim.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()

	cmd := exec.Command(r.shim, "pod", dir)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: cloneFlags(cfg)}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return fmt.Errorf("start the shim: %w", err)
	}
	go cmd.Wait() // so that it leaves no zombie if it ends before this process
	if err := recordProcess(dir, cmd.Process.Pid); err != nil {
		cmd.Process.Kill()
		return err
	}
	stop := context.AfterFunc(ctx, func() { ready.Close() })
	defer stop()
	answer, err := io.ReadAll(ready)
	if err != nil || string(answer) != "ok" {
		cmd.Process.Kill()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("the shim did not start: %s (see %s)", answer, log.Name())
	}
	return nil
}

func cloneFlags(cfg runtime.PodConfig) uintptr {
	flags := uintptr(unix.CLONE_NEWNS)
	if !cfg.HostNetwork {
		// The host's name belongs to its network identity.
		flags |= unix.CLONE_NEWNET | unix.CLONE_NEWUTS
	}
	if !cfg.HostIPC {
		flags |= unix.CLONE_NEWIPC
	}
	return flags
}

// OpenPod implements runtime.Runtime.
func (r *Runtime) OpenPod(ctx context.Context, stateDir string) (runtime.Pod, error) {
	dir := runtimeDir(stateDir)
	var resp shimapi.Response
	if err := call(ctx, dir, shimapi.Request{Op: shimapi.OpInfo}, &resp); err != nil {
		return nil, err
	}
	p := &pod{dir: dir, cfg: *resp.Pod, pid: resp.PID, events: make(chan runtime.ContainerStatus, 64)}
	if err := p.follow(); err != nil {
		return nil, err
	}
	return p, nil
}

// call makes one call to a shim. A shim that is not there any more gives
// runtime.ErrPodGone.
func call(ctx context.Context, dir string, req shimapi.Request, resp *shimapi.Response) error {
	conn, err := shimapi.Dial(dir)
	if err != nil {
		return gone(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := shimapi.Write(conn, req); err != nil {
		return callError(ctx, err)
	}
	if _, err := shimapi.Read(conn, resp); err != nil {
		return callError(ctx, err)
	}
	return resp.Err()
}

func callError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return gone(err)
}

// gone tells a dead shim from other errors.
func gone(err error) error {
	for _, dead := range []error{io.EOF, io.ErrUnexpectedEOF, unix.ECONNREFUSED, unix.ECONNRESET, unix.EPIPE, os.ErrNotExist} {
		if errors.Is(err, dead) {
			return runtime.ErrPodGone
		}
	}
	return err
}
