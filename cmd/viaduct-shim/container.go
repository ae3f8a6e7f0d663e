//go:build linux && cgo

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/agent/runtime"
)

// container is one run of one container.
type container struct {
	cfg  runtime.ContainerConfig
	user execUser
	dir  string   // its files: layers mounted here, libcontainer's state
	pins []string // where parts of volumes are held for it

	status runtime.ContainerStatus // under pod.mu
	io     *containerIO            // set before it is said to run
	lc     *libcontainer.Container
	ended  chan struct{} // closed when the first process has ended and its logs are written
	oom    atomic.Bool
}

// start mounts a container's file system and executes its program.
func (p *pod) start(cfg runtime.ContainerConfig) (runtime.ContainerStatus, error) {
	c := &container{
		cfg:   cfg,
		dir:   filepath.Join(p.dir, "containers", cfg.ID),
		ended: make(chan struct{}),
	}
	p.mu.Lock()
	taken := p.containers[cfg.ID] != nil
	if !taken {
		p.containers[cfg.ID] = c
	}
	p.mu.Unlock()
	if taken {
		return runtime.ContainerStatus{}, fmt.Errorf("container %s is there already", cfg.ID)
	}
	status, err := p.launch(c)
	if err != nil {
		if c.lc != nil {
			c.lc.Destroy()
		}
		c.unmount()
		os.RemoveAll(c.dir)
		p.mu.Lock()
		delete(p.containers, cfg.ID)
		p.mu.Unlock()
		return status, err
	}
	return status, nil
}

func (p *pod) launch(c *container) (runtime.ContainerStatus, error) {
	none := runtime.ContainerStatus{}
	os.RemoveAll(c.dir) // left by a shim that was killed
	if err := c.mount(); err != nil {
		return none, err
	}
	var err error
	if c.user, err = lookUpUser(c.rootfs(), c.cfg.User, c.cfg.SupplementalGroups); err != nil {
		return none, err
	}
	if err := c.makeWorkingDir(); err != nil {
		return none, err
	}
	if err := c.pinSubPaths(p.dir); err != nil {
		return none, err
	}
	config, err := c.config(p)
	if err != nil {
		return none, err
	}
	if c.lc, err = libcontainer.Create(filepath.Join(p.dir, "libcontainer"), c.cfg.ID, config); err != nil {
		return none, err
	}
	logs, err := newLogWriter(c.cfg.LogPath)
	if err != nil {
		return none, err
	}
	process := c.process(c.cfg.Args, c.cfg.Env)
	process.Init = true
	if c.io, err = connectContainer(process, c.cfg, logs); err != nil {
		logs.Close()
		return none, err
	}
	var pid int
	err = c.lc.Run(process)
	c.io.started()
	if err == nil {
		pid, err = process.Pid()
	}
	if err != nil {
		c.io.finish()
		logs.Close()
		return none, err
	}
	var status runtime.ContainerStatus
	p.publish(c, func(s *runtime.ContainerStatus) {
		*s = runtime.ContainerStatus{
			ID: c.cfg.ID, Name: c.cfg.Name, Attempt: c.cfg.Attempt,
			State: runtime.StateRunning, PID: pid, StartedAt: time.Now(),
		}
		status = *s
	})
	if oom, err := c.lc.NotifyOOM(); err == nil {
		go func() {
			for range oom {
				c.oom.Store(true)
			}
		}()
	}
	go p.wait(c, process, logs)
	return status, nil
}

// wait publishes a container's end, once all that it wrote is in the log.
func (p *pod) wait(c *container, process *libcontainer.Process, logs *logWriter) {
	state, err := process.Wait()
	finished := time.Now()
	// What the first process left running dies with the container, and with it
	// the last writers of the streams.
	c.lc.Signal(unix.SIGKILL)
	c.io.finish()
	logs.Close()
	// What an out-of-memory kill told arrives on its own descriptor.
	c.lc.Destroy()
	code, sig := exitStatus(state, err)
	p.publish(c, func(s *runtime.ContainerStatus) {
		s.State, s.PID, s.FinishedAt = runtime.StateExited, 0, finished
		s.ExitCode, s.Signal = code, sig
		s.OOMKilled = c.oom.Load() && sig == int(unix.SIGKILL)
	})
	c.unmount()
	close(c.ended)
}

// exitStatus gives the code that a shell would show, and the signal.
func exitStatus(state *os.ProcessState, err error) (code, sig int) {
	if state == nil {
		var exit interface{ ExitCode() int }
		if errors.As(err, &exit) {
			return exit.ExitCode(), 0
		}
		return 255, 0
	}
	ws, ok := state.Sys().(syscall.WaitStatus)
	if ok && ws.Signaled() {
		return 128 + int(ws.Signal()), int(ws.Signal())
	}
	return state.ExitCode(), 0
}

func (p *pod) signal(id string, sig syscall.Signal) error {
	c, err := p.find(id)
	if err != nil {
		return err
	}
	p.mu.Lock()
	running := c.status.State == runtime.StateRunning
	p.mu.Unlock()
	if !running {
		return nil
	}
	if err := c.lc.Signal(sig); err != nil && !errors.Is(err, libcontainer.ErrNotRunning) {
		return fmt.Errorf("signal container %s: %w", id, err)
	}
	return nil
}

// remove kills a container that still runs, and forgets it.
func (p *pod) remove(c *container) error {
	if err := p.signal(c.cfg.ID, unix.SIGKILL); err != nil {
		return err
	}
	if c.lc != nil {
		<-c.ended
	}
	p.mu.Lock()
	delete(p.containers, c.cfg.ID)
	p.mu.Unlock()
	return os.RemoveAll(c.dir)
}

// process prepares a program of the container.
func (c *container) process(args, env []string) *libcontainer.Process {
	noNewPrivileges := c.cfg.NoNewPrivileges
	caps := c.capabilities()
	return &libcontainer.Process{
		Args:             args,
		Env:              withHome(env, c.user.home),
		UID:              c.user.uid,
		GID:              c.user.gid,
		AdditionalGroups: c.user.groups,
		Cwd:              c.workingDir(),
		NoNewPrivileges:  &noNewPrivileges,
		Capabilities:     caps,
	}
}

// config turns the container into libcontainer's description.
func (c *container) config(p *pod) (*configs.Config, error) {
	return specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName: c.cfg.ID,
		Spec:       c.spec(p),
	})
}
