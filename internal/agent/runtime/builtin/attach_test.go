package builtin

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/agent/runtime"
)

// attached is somebody who is attached to a container.
type attached struct {
	in     *os.File // what he says; nil without
	out    *bufio.Reader
	resize chan runtime.TerminalSize
	leave  context.CancelFunc
	done   chan error
}

func attach(t *testing.T, p runtime.Pod, id string, input bool) *attached {
	t.Helper()
	outR, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithTimeout(t.Context(), 10*time.Second)
	a := &attached{out: bufio.NewReader(outR), resize: make(chan runtime.TerminalSize), leave: leave, done: make(chan error, 1)}
	s := runtime.Streams{Stdout: out, Resize: a.resize}
	if input {
		if s.Stdin, a.in, err = os.Pipe(); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		err := p.Attach(ctx, id, s)
		out.Close()
		if s.Stdin != nil {
			s.Stdin.Close()
		}
		a.done <- err
	}()
	t.Cleanup(func() {
		leave()
		outR.Close()
		if a.in != nil {
			a.in.Close()
		}
	})
	return a
}

func (a *attached) say(text string) { io.WriteString(a.in, text) }

func (a *attached) hears(t *testing.T, want string) {
	t.Helper()
	if line, err := a.out.ReadString('\n'); err != nil || strings.TrimRight(line, "\r\n") != want {
		t.Errorf("heard %q (%v), want %q", line, err, want)
	}
}

func (a *attached) ends(t *testing.T) {
	t.Helper()
	if rest, err := io.ReadAll(a.out); err != nil || len(rest) > 0 {
		t.Errorf("heard %q at the end (%v)", rest, err)
	}
	if err := <-a.done; err != nil {
		t.Error(err)
	}
}

func TestAttachedInputEndsWithTheFirstWhereItIsAskedFor(t *testing.T) {
	h := newHost(t)
	p, cfg := h.pod(t)
	c := h.container(cfg, "c", "cat")
	c.Stdin, c.StdinOnce = true, true
	s := run(t, p, c)
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/0", s.PID))
	var flags int
	for line := range strings.Lines(string(info)) {
		fmt.Sscanf(line, "flags: %o", &flags)
	}
	if err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("the program's input does not block: %s (%v)", info, err)
	}
	a, watching := attach(t, p, "c", true), attach(t, p, "c", false)
	watched := make(chan string, 1)
	go func() {
		watching.out.ReadString('\n')
		watched <- ""
		rest, _ := io.ReadAll(watching.out)
		watched <- string(rest)
	}()
	for there := false; !there; { // nobody says when he has been attached
		a.say("one\n")
		a.hears(t, "one")
		select {
		case <-watched:
			there = true
		case <-time.After(time.Millisecond):
		}
	}
	a.say("two\n")
	a.in.Close()
	a.hears(t, "two")
	a.ends(t)
	if rest := <-watched; !strings.HasSuffix(rest, "two\n") {
		t.Errorf("who only watches heard %q", rest)
	}
	if s := ended(t, p, "c"); s.ExitCode != 0 {
		t.Errorf("%+v", s)
	}
	if text := logText(t, c); !strings.Contains(text, "stdout F one\n") || !strings.Contains(text, "stdout F two\n") {
		t.Errorf("log %q", text)
	}
	if err := p.Attach(t.Context(), "c", runtime.Streams{}); err == nil {
		t.Error("an ended container was attached to")
	}
}

func TestContainerGoesOnWhenWhoIsAttachedLeaves(t *testing.T) {
	h := newHost(t)
	p, cfg := h.pod(t)
	c := h.container(cfg, "c", "cat")
	c.Stdin = true
	run(t, p, c)
	first := attach(t, p, "c", true)
	first.say("one\n")
	first.hears(t, "one")
	first.in.Close()
	first.leave()
	if err := <-first.done; err == nil {
		t.Error("leaving gave no error")
	}
	second := attach(t, p, "c", true)
	second.say("two\n")
	second.hears(t, "two")
	if err := p.Signal(t.Context(), "c", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second.ends(t)
}

func TestWhoIsAttachedAndTakesNothingHoldsUpNoEnd(t *testing.T) {
	h := newHost(t)
	p, cfg := h.pod(t)
	c := hostPrograms(h.container(cfg, "c"), "/bin/bash", "-c", "read; yes")
	c.Stdin = true
	run(t, p, c)
	a := attach(t, p, "c", true)
	a.say("go\n")
	if line, err := a.out.ReadString('\n'); err != nil || line != "y\n" {
		t.Fatalf("heard %q (%v)", line, err)
	}
	if err := p.Signal(t.Context(), "c", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ended(t, p, "c")
}

func TestAttachedTerminalHasItsSizeAndEcho(t *testing.T) {
	h := newHost(t)
	p, cfg := h.pod(t)
	c := h.container(cfg, "c", "cat")
	c.Stdin, c.TTY = true, true
	s := run(t, p, c)
	a := attach(t, p, "c", true)
	a.resize <- runtime.TerminalSize{Width: 123, Height: 45}
	tty, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/0", s.PID), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(time.Millisecond) {
		size, err := unix.IoctlGetWinsize(int(tty.Fd()), unix.TIOCGWINSZ)
		if err == nil && size.Col == 123 && size.Row == 45 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the terminal's size is %+v (%v)", size, err)
		}
	}
	tty.Close()
	a.say("hello\r")
	a.hears(t, "hello") // the terminal's echo
	a.hears(t, "hello") // the program
	a.say("\x04")       // end of input, as typed
	a.ends(t)
}
