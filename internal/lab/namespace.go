package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Directory is where named namespaces are pinned; ip(8) lists and enters those
// below it.
const Directory = "/run/netns"

// Namespace is an open network namespace. Its methods may be called
// concurrently; none may be called after Close.
type Namespace struct {
	file *os.File
	path string // where it is pinned, or empty
}

// New makes a namespace without a name. It lives until it is closed and no
// process or socket is left in it.
func New() (*Namespace, error) {
	var file *os.File
	err := discardedThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		f, err := os.Open(threadNamespace())
		file = f
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	ns := &Namespace{file: file}
	if err := ns.prepare(); err != nil {
		file.Close()
		return nil, err
	}
	return ns, nil
}

// Create makes a namespace that is pinned at Directory/name and so outlives
// this process until it is deleted. It fails if the name is in use.
func Create(name string) (*Namespace, error) {
	if name == "" || strings.ContainsRune(name, '/') {
		return nil, fmt.Errorf("make network namespace %q: not a file name", name)
	}
	if err := os.MkdirAll(Directory, 0o755); err != nil {
		return nil, fmt.Errorf("make network namespace %s: %w", name, err)
	}
	path := filepath.Join(Directory, name)
	pin, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return nil, fmt.Errorf("make network namespace %s: %w", name, err)
	}
	pin.Close()
	ns, err := New()
	if err == nil {
		err = unix.Mount(fmt.Sprintf("/proc/self/fd/%d", ns.file.Fd()), path, "", unix.MS_BIND, "")
		if err != nil {
			ns.Close()
		}
	}
	if err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("pin network namespace %s: %w", name, err)
	}
	ns.path = path
	return ns, nil
}

// Open opens a namespace by path: a name below Directory, /proc/PID/ns/net, or
// any other place that it is pinned at.
func Open(path string) (*Namespace, error) {
	if !strings.ContainsRune(path, '/') {
		path = filepath.Join(Directory, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		f.Close()
		return nil, fmt.Errorf("open network namespace %s: not a namespace", path)
	}
	return &Namespace{file: f, path: path}, nil
}

// Current opens the namespace that this process is in.
func Current() (*Namespace, error) { return Open("/proc/self/ns/net") }

// Delete unpins the namespace of that name. Deleting one that is not there is
// no error.
func Delete(name string) error {
	path := filepath.Join(Directory, name)
	// A pin may have been mounted more than once; EINVAL says that none is left.
	for {
		err := unix.Unmount(path, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unpin network namespace %s: %w", name, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpin network namespace %s: %w", name, err)
	}
	return nil
}

// Close closes the descriptor. A pinned namespace stays.
func (n *Namespace) Close() error { return n.file.Close() }

// Path is where the namespace is pinned, or empty.
func (n *Namespace) Path() string { return n.path }

// File is the descriptor that refers to the namespace, for setns(2) and for
// netlink's IFLA_NET_NS_FD. It stays the Namespace's own.
func (n *Namespace) File() *os.File { return n.file }

// Is says whether both are the same namespace.
func (n *Namespace) Is(other *Namespace) (bool, error) {
	a, err := n.file.Stat()
	if err != nil {
		return false, err
	}
	b, err := other.file.Stat()
	if err != nil {
		return false, err
	}
	return os.SameFile(a, b), nil
}

// Do runs fn on an OS thread inside the namespace and waits for it. Sockets
// that fn opens belong to the namespace and work from anywhere. Goroutines that
// fn starts do not run in the namespace.
func (n *Namespace) Do(fn func() error) error {
	return discardedThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", n.path, err)
		}
		return fn()
	})
}

// discardedThread runs fn on a locked OS thread that ends with it, because a
// thread that has changed its namespaces must never run another goroutine.
func discardedThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- fn()
	}()
	return <-done
}

func threadNamespace() string {
	return fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
}

// Start starts a program inside the namespace; cmd is as for exec.Cmd.Start.
func (n *Namespace) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// DialContext connects from inside the namespace; it fits http.Transport. The
// address must be numeric: names would be looked up with the host's resolver.
func (n *Namespace) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := n.Do(func() error {
		var d net.Dialer
		// One attempt at a time: racing attempts would run on other threads.
		d.FallbackDelay = -1
		c, err := d.DialContext(ctx, network, address)
		conn = c
		return err
	})
	return conn, err
}

// Listen listens inside the namespace.
func (n *Namespace) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var l net.Listener
	err := n.Do(func() error {
		var err error
		l, err = (&net.ListenConfig{}).Listen(ctx, network, address)
		return err
	})
	return l, err
}

// ListenPacket opens a packet socket inside the namespace.
func (n *Namespace) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	var c net.PacketConn
	err := n.Do(func() error {
		var err error
		c, err = (&net.ListenConfig{}).ListenPacket(ctx, network, address)
		return err
	})
	return c, err
}
