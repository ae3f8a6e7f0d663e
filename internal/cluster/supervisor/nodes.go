package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/cluster/control"
	"viaduct.dev/viaduct/internal/cluster/link"
	"viaduct.dev/viaduct/internal/lab"
)

const (
	// A node's process that dies is started again at once, then after ever
	// longer pauses, until it has lived for a while.
	firstPause = 100 * time.Millisecond
	maxPause   = 10 * time.Second
	longLife   = 30 * time.Second
	// A node that dies so often before the box was ever ready never will be.
	maxStillborn = 5
	// A node's process has so long to end by itself.
	endTimeout = 10 * time.Second
)

// node is a node's process. The fields below are guarded by supervisor.mu.
type node struct {
	name       string
	first      bool // it also holds the control plane
	supervisor *supervisor

	process  box.Process
	ready    bool
	restarts int
	words    string // why the process says that it ends
	failure  string // how it ended last
}

// run keeps the node's process alive until ctx ends.
func (n *node) run(ctx context.Context, ns *lab.Namespace, prepared <-chan struct{}) error {
	s := n.supervisor
	pause := time.Duration(0)
	for everReady := false; ; {
		begin := time.Now()
		err := n.live(ctx, ns, prepared)
		if ctx.Err() != nil {
			return nil
		}
		s.mu.Lock()
		everReady = everReady || n.ready
		n.ready, n.process = false, box.Process{}
		n.restarts++
		n.failure = fmt.Sprint(err)
		restarts := n.restarts
		s.mu.Unlock()
		s.readyChanged()
		s.log.Error("a node's process has ended; it is started again", "node", n.name, "err", err, "restarts", restarts)
		if !everReady && restarts >= maxStillborn {
			return fmt.Errorf("%s ended %d times before it was ready: %w", n.name, restarts, err)
		}
		if time.Since(begin) > longLife {
			pause = 0
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(max(2*pause, firstPause), maxPause)
	}
}

// live is one life of the process. It returns how it ended.
func (n *node) live(ctx context.Context, ns *lab.Namespace, prepared <-chan struct{}) error {
	s := n.supervisor
	ours, theirs, err := link.Pair()
	if err != nil {
		return err
	}
	defer ours.Close()
	cmd := exec.Command(s.cfg.Program, "node", string(s.cfg.Dir), n.name)
	cmd.Args[0] = "viaduct"
	cmd.Stdout, cmd.Stderr = s.cfg.Output, s.cfg.Output
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Dir = "/"
	// Little of what the start makes is garbage; the node itself turns to
	// keeping small when it is over.
	cmd.Env = append(os.Environ(), "GOGC=400",
		// client-go looks after 45 s whether a silent connection is dead, which is
		// longer than a node may be silent; in a box the API is milliseconds away.
		"HTTP2_READ_IDLE_TIMEOUT_SECONDS=5", "HTTP2_PING_TIMEOUT_SECONDS=3")
	// A terminal's signals are the supervisor's to handle.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = ns.Start(cmd)
	theirs.Close()
	if err != nil {
		return fmt.Errorf("start the process of %s: %w", n.name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	process, err := box.NewProcess(box.RoleNode, n.name, cmd.Process.Pid)
	if err == nil {
		s.mu.Lock()
		n.process = process
		s.mu.Unlock()
		s.recordProcesses()
	}

	listening := make(chan struct{})
	go func() {
		defer close(listening)
		n.listen(ours)
	}()
	defer func() { ours.Close(); <-listening }()

	talking := make(chan struct{})
	go func() {
		defer close(talking)
		n.tell(ctx, ours, prepared, listening)
	}()
	defer func() { <-talking }()

	select {
	case err := <-ended:
		<-listening // to its last words
		return n.end(err)
	case <-ctx.Done():
	}
	ours.Close() // the process ends by that
	select {
	case <-ended:
	case <-time.After(endTimeout):
		s.log.Error("a node's process does not end and is killed", "node", n.name)
		_ = cmd.Process.Kill()
		<-ended
	}
	return ctx.Err()
}

// end is how the process has ended: in its own words if it had any.
func (n *node) end(err error) error {
	n.supervisor.mu.Lock()
	defer n.supervisor.mu.Unlock()
	words := n.words
	n.words = ""
	switch {
	case words != "":
		return errors.New(words)
	case err != nil:
		return err
	}
	return errors.New("the process has ended")
}

// tell says to the process what it waits for.
func (n *node) tell(ctx context.Context, l *link.Conn, prepared, gone <-chan struct{}) {
	s := n.supervisor
	select {
	case <-prepared:
	case <-gone:
		return
	case <-ctx.Done():
		return
	}
	var files []*os.File
	if n.first {
		f, err := s.cfg.API.File()
		if err != nil {
			s.log.Error("hand over the API's port", "err", err)
			return
		}
		defer f.Close()
		files = append(files, f)
	}
	if err := l.Send(link.Message{Go: true}, files...); err != nil {
		return // its end is reported by whoever waits for it
	}
	if n.first {
		return
	}
	select {
	case <-s.connected:
	case <-gone:
		return
	case <-ctx.Done():
		return
	}
	_ = l.Send(link.Message{Connect: true})
}

// listen does what the process asks, until the link ends.
func (n *node) listen(l *link.Conn) {
	s := n.supervisor
	session := s.ports.session()
	// Dialling takes time, and other messages do not wait for it.
	ctx, cancel := context.WithCancel(context.Background())
	var dialling sync.WaitGroup
	defer dialling.Wait()
	defer cancel()
	for {
		m, files, err := l.Receive()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				s.log.Error("listen to a node", "node", n.name, "err", err)
			}
			return
		}
		for _, f := range files { // none is expected
			f.Close()
		}
		switch {
		case m.Step != nil:
			s.step(n.name, m.Step.Name, m.Step.Took)
		case m.Serving:
			s.mu.Lock()
			if !s.serving {
				s.serving = true
				close(s.connected)
			}
			s.mu.Unlock()
		case m.Failed != "":
			s.mu.Lock()
			n.words = m.Failed
			s.mu.Unlock()
		case m.Ready:
			s.mu.Lock()
			n.ready = true
			s.mu.Unlock()
			s.readyChanged()
		case m.Open != nil:
			opened, f := s.ports.open(*m.Open, session)
			if f == nil {
				_ = l.Send(link.Message{Opened: &opened})
				continue
			}
			_ = l.Send(link.Message{Opened: &opened}, f)
		case m.Close != nil:
			s.ports.close(*m.Close)
		case m.Dial != nil:
			dialling.Go(func() { s.answerDial(ctx, l, *m.Dial) })
		case m.Settled:
			s.ports.closeOlder(session)
		}
	}
}

// noticeDead looks for processes that have just died, whose end is not yet
// known here: whoever asks whether the box is ready is not told of its past.
func (s *supervisor) noticeDead() {
	s.mu.Lock()
	for _, n := range s.nodes {
		if n.ready && !n.process.Alive() {
			n.ready = false
		}
	}
	s.mu.Unlock()
	s.readyChanged()
}

// statuses describes all nodes.
func (s *supervisor) statuses() []control.NodeStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []control.NodeStatus
	for _, n := range s.nodes {
		all = append(all, control.NodeStatus{Name: n.name, PID: n.process.PID, Ready: n.ready, Restarts: n.restarts, Error: n.failure})
	}
	return all
}
