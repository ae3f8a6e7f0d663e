package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// heard collects what a command says, to be waited for.
type heard struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (h *heard) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.Write(b)
}

func (h *heard) until(t *testing.T, want string) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !strings.Contains(h.text.String(), want) {
			return fmt.Errorf("it said %q, which lacks %q", h.text.String(), want)
		}
		return nil
	})
}

// terminal opens a pair: what a person has, and what a program takes for one.
func terminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	conn, err := ours.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	conn.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
		if err == nil {
			err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 99})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	return ours, theirs
}

func TestPodsCanBeAttachedTo(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	for name, kubectl := range kubectls(t, b) {
		// Input by a pipe: it ends with the caller's, and the Pod goes with it.
		cmd := kubectl("run", "-n", ns, "-i", "--rm", "--restart=Never", "--image=viaduct/toolbox:1", "piped-"+name, "--", "cat")
		cmd.Stdin = strings.NewReader("through and back\n")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "through and back\n") {
			t.Errorf("%s: run -i: %v %q", name, err, out)
		}
		if out := b.kubectl(t, "get", "pods", "-n", ns, "-o", "name"); strings.Contains(out, "piped-"+name) {
			t.Errorf("%s: run --rm left %s", name, out)
		}

		// The same with a terminal.
		ours, theirs := terminal(t)
		cmd = kubectl("run", "-n", ns, "-it", "--rm", "--restart=Never", "--image=viaduct/toolbox:1", "shell-"+name, "--", "cat")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		theirs.Close()
		said := &heard{}
		go io.Copy(said, ours)
		said.until(t, "press")
		io.WriteString(ours, "hello\r")
		said.until(t, "hello\r\nhello\r\n")
		io.WriteString(ours, "\x04")
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: run -it: %v", name, err)
		}
		said.until(t, "deleted")

		// A terminal, which one leaves and comes back to.
		pod := "typed-" + name
		b.kubectl(t, "run", "-n", ns, "--stdin", "--tty", "--restart=Never", "--image=viaduct/toolbox:1", pod, "--attach=false", "--", "cat")
		b.kubectl(t, "wait", "pod/"+pod, "-n", ns, "--for=condition=Ready", "--timeout=20s")
		for _, word := range []string{"first", "second"} {
			ours, theirs := terminal(t)
			cmd := kubectl("attach", "-n", ns, "-it", pod)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			theirs.Close()
			said := &heard{}
			go io.Copy(said, ours)
			said.until(t, "press")
			io.WriteString(ours, word+"\r")
			said.until(t, word+"\r\n"+word+"\r\n") // the terminal's echo, and the program
			if word == "first" {
				cmd.Process.Kill()
			} else {
				io.WriteString(ours, "\x04")
			}
			if err := cmd.Wait(); word == "second" && err != nil {
				t.Errorf("%s: attach: %v", name, err)
			}
		}
		if out := finished(t, b, ns, pod, "Succeeded"); !strings.Contains(out, "first") || !strings.Contains(out, "second") {
			t.Errorf("%s: its log: %q", name, out)
		}
	}
}
