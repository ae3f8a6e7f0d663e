//go:build linux && cgo

package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/agent/runtime"
	"viaduct.dev/viaduct/internal/agent/runtime/builtin/shimapi"
)

// attachedPatience is how long the container is held up by somebody attached who
// takes nothing of what it writes, before he is cut off.
const attachedPatience = time.Minute

// containerIO is what a container's first process reads and writes: its output
// goes to the log and to whoever is attached, its input comes from those.
type containerIO struct {
	*streams
	stdout, stderr *outlet

	once  bool     // input ends with the first who attached
	given *os.File // the program's end of its input, until it runs
	input *os.File // our end of it; nil with a terminal or without input
	takes bool     // it has input at all
}

// connectContainer gives a container's first process its streams.
func connectContainer(process *libcontainer.Process, cfg runtime.ContainerConfig, logs *logWriter) (*containerIO, error) {
	c := &containerIO{
		stdout: newOutlet(logs.stream("stdout")), stderr: newOutlet(logs.stream("stderr")),
		once: cfg.StdinOnce, takes: cfg.Stdin,
	}
	var err error
	if cfg.Stdin && !cfg.TTY {
		c.given, c.input, err = os.Pipe()
	}
	if err == nil {
		c.streams, err = connect(process, cfg.TTY, c.given, c.stdout, c.stderr)
	}
	if err != nil {
		c.stdout.Close()
		c.stderr.Close()
		return nil, err
	}
	return c, nil
}

func (c *containerIO) started() {
	c.streams.started()
	if c.given != nil {
		c.given.Close()
	}
}

func (c *containerIO) finish() {
	c.stdout.hurry()
	c.stderr.hurry()
	c.streams.finish()
	if c.input != nil {
		c.input.Close() // whoever still writes is told
	}
}

// feed gives the program what somebody attached has to say, until he ends it.
func (c *containerIO) feed(from io.Reader) {
	if c.terminalSet != nil {
		<-c.terminalSet
		if c.terminal != nil {
			io.Copy(c.terminal, from) // a terminal has no end of input that could be passed on
		}
		return
	}
	io.Copy(c.input, from)
	if c.once {
		c.input.Close()
	}
}

// outlet is one output stream of a container.
type outlet struct {
	log io.WriteCloser

	mu       sync.Mutex               // not held while something is written
	attached map[*os.File]func(error) // told why somebody is attached no more
	patience time.Duration
	ended    bool
}

func newOutlet(log io.WriteCloser) *outlet {
	return &outlet{log: log, attached: map[*os.File]func(error){}, patience: attachedPatience}
}

// Write never fails: the program is not to suffer from those who watch it. It is
// called by one goroutine.
func (o *outlet) Write(b []byte) (int, error) {
	o.log.Write(b)
	for f, cut := range o.watched() {
		if _, err := f.Write(b); err != nil {
			o.mu.Lock()
			delete(o.attached, f)
			o.mu.Unlock()
			f.Close()
			cut(err)
		}
	}
	return len(b), nil
}

// watched are those who are attached now, each with its time to take something.
func (o *outlet) watched() map[*os.File]func(error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for f := range o.attached {
		f.SetWriteDeadline(time.Now().Add(o.patience))
	}
	return maps.Clone(o.attached)
}

// hurry is called when the program has ended: its end waits for nobody long.
func (o *outlet) hurry() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.patience = time.Second
	for f := range o.attached {
		f.SetWriteDeadline(time.Now().Add(o.patience))
	}
}

// Close is called when the program has written its last.
func (o *outlet) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return nil
	}
	o.ended = true
	for f := range o.attached {
		f.Close()
	}
	o.attached = nil
	return o.log.Close()
}

// attach sends f what is written from now on; what it returns ends that.
func (o *outlet) attach(f *os.File, cut func(error)) (detach func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		f.Close()
		return func() {}
	}
	o.attached[f] = cut
	return func() {
		f.Close() // a write that waits ends
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.attached, f)
	}
}

// attach joins a container's streams until it ends, or until the caller goes.
func (p *pod) attach(conn *net.UnixConn, id string, req shimapi.Streams, files []*os.File) error {
	c, err := p.find(id)
	if err != nil {
		return err
	}
	p.mu.Lock()
	running := c.status.State == runtime.StateRunning
	p.mu.Unlock()
	if !running {
		return fmt.Errorf("container %s does not run", id)
	}
	stdin, stdout, stderr := req.Files(files)
	over := make(chan error, 3)
	for _, o := range []struct {
		to   *outlet
		file *os.File
	}{{c.io.stdout, stdout}, {c.io.stderr, stderr}} {
		if o.file == nil {
			continue
		}
		f, err := pollable(o.file)
		if err != nil {
			return err
		}
		defer o.to.attach(f, func(err error) {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = errors.New("cut off: nothing was taken of the output")
			}
			over <- err
		})()
	}
	if stdin != nil && c.io.takes {
		// It ends with the caller's own end of the pipe.
		own, err := pollable(stdin)
		if err != nil {
			return err
		}
		go func() {
			c.io.feed(own)
			own.Close()
		}()
	}
	go func() {
		for {
			var size shimapi.Resize
			if _, err := shimapi.Read(conn, &size); err != nil {
				over <- nil
				return
			}
			c.io.resize(size.Width, size.Height)
		}
	}()
	select {
	case <-c.ended:
		return nil
	case err := <-over:
		return err
	}
}

// pollable is a descriptor of its own for f, on which deadlines hold; f is closed.
func pollable(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
