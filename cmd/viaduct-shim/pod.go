//go:build linux && cgo

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/agent/runtime"
	"viaduct.dev/viaduct/internal/agent/runtime/builtin/shimapi"
)

// readyFD is the pipe on which the agent waits for "ok" or an error's text.
const readyFD = 3

// pod is what this process holds.
type pod struct {
	cfg runtime.PodConfig
	dir string // the runtime's directory of the Pod

	mu         sync.Mutex
	containers map[string]*container
	watchers   map[chan runtime.ContainerStatus]bool
}

// run holds the Pod of dir until it is stopped.
func run(dir string) error {
	ready := os.NewFile(readyFD, "ready")
	p, listener, err := open(dir)
	if err != nil {
		fmt.Fprint(ready, err)
		ready.Close()
		return err
	}
	fmt.Fprint(ready, "ok")
	ready.Close()
	return p.serve(listener)
}

func open(dir string) (*pod, *net.UnixListener, error) {
	text, err := os.ReadFile(filepath.Join(dir, "pod.json"))
	if err != nil {
		return nil, nil, err
	}
	p := &pod{dir: dir, containers: map[string]*container{}, watchers: map[chan runtime.ContainerStatus]bool{}}
	if err := json.Unmarshal(text, &p.cfg); err != nil {
		return nil, nil, fmt.Errorf("read pod.json: %w", err)
	}
	if err := p.prepareNamespaces(); err != nil {
		return nil, nil, err
	}
	if err := os.Chdir(dir); err != nil {
		return nil, nil, err
	}
	os.Remove(shimapi.SocketName)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: shimapi.SocketName, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	l.SetUnlinkOnClose(false) // the working directory may change by then
	return p, l, nil
}

// prepareNamespaces makes the namespaces that the agent cloned usable.
func (p *pod) prepareNamespaces() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if !p.cfg.HostNetwork {
		if p.cfg.Hostname != "" {
			if err := unix.Sethostname([]byte(p.cfg.Hostname)); err != nil {
				return fmt.Errorf("set host name %q: %w", p.cfg.Hostname, err)
			}
		}
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("bring lo up: %w", err)
		}
	}
	for key, value := range p.cfg.Sysctls {
		if err := setSysctl(key, value); err != nil {
			return err
		}
	}
	// The Pod's containers share memory as they share the IPC namespace.
	shm := filepath.Join(p.dir, "shm")
	if err := os.MkdirAll(shm, 0o700); err != nil {
		return err
	}
	if p.cfg.HostIPC {
		return unix.Mount("/dev/shm", shm, "", unix.MS_BIND, "")
	}
	return unix.Mount("shm", shm, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, "mode=1777,size=64m")
}

// loopbackUp sets IFF_UP on lo.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// find gives a container or says that it is not there.
func (p *pod) find(id string) (*container, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.containers[id]
	if c == nil {
		return nil, runtime.ErrContainerNotFound
	}
	return c, nil
}

func (p *pod) list() []runtime.ContainerStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.listLocked()
}

func (p *pod) listLocked() []runtime.ContainerStatus {
	all := make([]runtime.ContainerStatus, 0, len(p.containers))
	for _, c := range p.containers {
		all = append(all, c.status)
	}
	return all
}

// publish records a container's new status and tells every watcher.
func (p *pod) publish(c *container, change func(*runtime.ContainerStatus)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&c.status)
	for w := range p.watchers {
		select {
		case w <- c.status:
		default:
			// A watcher that does not read is cut off; it comes back and lists.
			delete(p.watchers, w)
			close(w)
		}
	}
}

// watch gives all statuses and a channel of what changes after them.
func (p *pod) watch() ([]runtime.ContainerStatus, chan runtime.ContainerStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := make(chan runtime.ContainerStatus, 256)
	p.watchers[w] = true
	return p.listLocked(), w
}

func (p *pod) unwatch(w chan runtime.ContainerStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watchers[w] {
		delete(p.watchers, w)
		close(w)
	}
}

// stop kills every container and waits for their ends.
func (p *pod) stop() error {
	p.mu.Lock()
	all := make([]*container, 0, len(p.containers))
	for _, c := range p.containers {
		all = append(all, c)
	}
	p.mu.Unlock()
	var errs []error
	for _, c := range all {
		errs = append(errs, p.remove(c))
	}
	return errors.Join(errs...)
}
