//go:build linux && cgo

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// streams carries what a program reads and writes.
type streams struct {
	child   []*os.File // ends that are the program's: closed here once it runs
	closers []io.Closer
	wg      sync.WaitGroup // of what copies the program's output

	console     *os.File      // our end of the socket that brings the terminal
	terminal    *os.File      // its master side, once terminalSet is closed
	terminalSet chan struct{} // only with a terminal
	stdin       *os.File
	out         io.WriteCloser
}

// connect gives a process its streams: a terminal or pipes. stdin may be nil;
// stdout and stderr are closed when the program's output has ended.
func connect(process *libcontainer.Process, tty bool, stdin *os.File, stdout, stderr io.WriteCloser) (*streams, error) {
	s := &streams{stdin: stdin, out: stdout}
	if tty {
		if stderr != nil {
			stderr.Close()
		}
		return s, s.connectTerminal(process)
	}
	if stdin != nil {
		process.Stdin = stdin
	}
	for _, o := range []struct {
		to  io.WriteCloser
		set *io.Writer
	}{{stdout, &process.Stdout}, {stderr, &process.Stderr}} {
		if o.to == nil {
			continue
		}
		if f, ok := o.to.(*os.File); ok { // the caller's own descriptor: nothing to copy
			*o.set = f
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		*o.set = w
		s.child = append(s.child, w)
		s.copyOut(o.to, r)
	}
	return s, nil
}

func (s *streams) copyOut(to io.WriteCloser, from *os.File) {
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		io.Copy(to, from)
		from.Close()
		to.Close()
	}()
}

// connectTerminal asks libcontainer's init for a terminal: it opens one inside
// the container and sends its master side.
func (s *streams) connectTerminal(process *libcontainer.Process) error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make the terminal's socket: %w", err)
	}
	s.console = os.NewFile(uintptr(fds[0]), "console")
	theirs := os.NewFile(uintptr(fds[1]), "console")
	process.ConsoleSocket = theirs
	s.child = append(s.child, theirs)
	s.terminalSet = make(chan struct{})
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		defer s.out.Close()
		master, err := receiveFile(s.console)
		s.console.Close()
		if err != nil {
			close(s.terminalSet)
			return
		}
		s.terminal = master
		close(s.terminalSet)
		if s.stdin != nil {
			go io.Copy(master, s.stdin)
		}
		io.Copy(s.out, master) // ends with EIO when the last program has closed it
	}()
	return nil
}

func receiveFile(socket *os.File) (*os.File, error) {
	var b [256]byte
	oob := make([]byte, unix.CmsgSpace(4))
	_, oobn, _, _, err := unix.Recvmsg(int(socket.Fd()), b[:], oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil && len(fds) == 1 {
			return os.NewFile(uintptr(fds[0]), "terminal"), nil
		}
	}
	return nil, errors.New("no terminal was sent")
}

// started closes the program's ends, which it has inherited by now (or never
// will).
func (s *streams) started() {
	for _, f := range s.child {
		f.Close()
	}
}

// finish waits until everything that the program wrote has been copied.
func (s *streams) finish() {
	s.wg.Wait()
	if s.terminalSet != nil {
		<-s.terminalSet
		if s.terminal != nil {
			s.terminal.Close()
		}
	}
}

// resize sets the terminal's size in character cells.
func (s *streams) resize(width, height uint16) {
	if s.terminalSet == nil {
		return
	}
	<-s.terminalSet
	if s.terminal != nil {
		unix.IoctlSetWinsize(int(s.terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height})
	}
}
