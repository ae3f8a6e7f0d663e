package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"viaduct.dev/viaduct/internal/agent/runtime"
	"viaduct.dev/viaduct/internal/lab"
)

// streams carries a client's streams to a Pod.
type streams struct{ w *worker }

// ExecInContainer implements remotecommand.Executor.
func (s streams) ExecInContainer(ctx context.Context, _, _, name string, cmd []string, in io.Reader, out, stderr io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	sandbox, id, err := s.container(name)
	if err != nil {
		return err
	}
	if tty {
		stderr = nil
	}
	code := 0
	// A program that it left behind may hold its output open.
	err = carry(ctx, in, out, stderr, resize, time.Second, func(ctx context.Context, own runtime.Streams) (err error) {
		code, err = sandbox.Exec(ctx, id, runtime.ExecConfig{Args: cmd, TTY: tty, Streams: own})
		return err
	})
	if err == nil && code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return err
}

// AttachContainer implements remotecommand.Attacher.
func (s streams) AttachContainer(ctx context.Context, _, _, name string, in io.Reader, out, stderr io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	sandbox, id, err := s.container(name)
	if err != nil {
		return err
	}
	if tty {
		stderr = nil
	}
	err = carry(ctx, in, out, stderr, resize, streamIdle, func(ctx context.Context, own runtime.Streams) error {
		return sandbox.Attach(ctx, id, own)
	})
	if ctx.Err() != nil {
		return nil // the client has left
	}
	return err
}

// container finds the newest run of a container of the Pod.
func (s streams) container(name string) (runtime.Pod, string, error) {
	v := s.w.view.Load()
	run, ok := v.runs[name]
	if !ok || v.sandbox == nil {
		return nil, "", fmt.Errorf("container not found (%q)", name)
	}
	return v.sandbox, run.status.ID, nil
}

// carry copies a client's streams to and from pipes, whose other ends call has
// until it returns. What was written is then copied to the end, for linger at most.
func carry(ctx context.Context, in io.Reader, out, stderr io.WriteCloser, resize <-chan remotecommand.TerminalSize, linger time.Duration, call func(context.Context, runtime.Streams) error) error {
	var own runtime.Streams
	var open []*os.File
	pipe := func() (r, w *os.File, err error) {
		if r, w, err = os.Pipe(); err == nil {
			open = append(open, r, w)
		}
		return r, w, err
	}
	defer func() {
		for _, f := range open {
			f.Close()
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	copied := make(chan struct{}, 2)
	copying := 0
	if in != nil {
		r, w, err := pipe()
		if err != nil {
			return err
		}
		own.Stdin = r
		go func() { // ends with the client's stream, which the caller closes
			io.Copy(w, in)
			w.Close()
		}()
	}
	for _, o := range []struct {
		to   io.WriteCloser
		file **os.File
	}{{out, &own.Stdout}, {stderr, &own.Stderr}} {
		if o.to == nil {
			continue
		}
		r, w, err := pipe()
		if err != nil {
			return err
		}
		*o.file = w
		copying++
		go func() {
			io.Copy(o.to, r)
			copied <- struct{}{}
		}()
	}
	if resize != nil {
		sizes := make(chan runtime.TerminalSize)
		own.Resize = sizes
		go func() {
			for {
				select {
				case size, ok := <-resize:
					if !ok {
						return
					}
					select {
					case sizes <- runtime.TerminalSize(size):
					case <-ctx.Done():
						return
					}
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	err := call(ctx, own)
	// The program's own ends are closed; what it wrote is still in the pipes.
	for _, f := range []*os.File{own.Stdout, own.Stderr} {
		if f != nil {
			f.Close()
		}
	}
	late, cancel := context.WithTimeout(ctx, linger)
	defer cancel()
	for range copying {
		select {
		case <-copied:
		case <-late.Done():
		}
	}
	return err
}

// watchedResponse tells when the client of a connection that is taken over has
// gone: whoever speaks SPDY or WebSocket on it reads all the time, and closes it
// when the client has said goodbye.
type watchedResponse struct {
	http.ResponseWriter
	gone func()
}

// Hijack implements http.Hijacker.
func (w watchedResponse) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	watched := watchedConn{conn, w.gone}
	// What was read already comes first, and is in the reader from the beginning.
	rest, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	in := bufio.NewReader(io.MultiReader(bytes.NewReader(bytes.Clone(rest)), watched))
	in.Peek(len(rest))
	return watched, bufio.NewReadWriter(in, buffered.Writer), nil
}

type watchedConn struct {
	net.Conn
	gone func()
}

func (c watchedConn) Close() error {
	c.gone()
	return c.Conn.Close()
}

func (c watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.gone()
	}
	return n, err
}

// PortForward implements portforward.PortForwarder: it dials from inside the Pod.
func (s streams) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	v := s.w.view.Load()
	if v.sandbox == nil {
		return errors.New("the pod does not run")
	}
	ns, err := lab.Open(v.sandbox.NetNS())
	if err != nil {
		return err
	}
	defer ns.Close()
	conn, err := ns.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		var err6 error
		if conn, err6 = ns.DialContext(ctx, "tcp", net.JoinHostPort("::1", strconv.Itoa(int(port)))); err6 != nil {
			return fmt.Errorf("failed to connect to localhost:%d inside the pod: %w", port, err)
		}
	}
	defer conn.Close()
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(stream, conn)
		done <- err
	}()
	io.Copy(conn, stream)
	if c, ok := conn.(*net.TCPConn); ok {
		c.CloseWrite()
	}
	return <-done
}
