package shimapi

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/agent/runtime"
)

// SocketName is the shim's socket in the runtime's directory of the Pod.
const SocketName = "shim.sock"

// maxMessage bounds a message's length in bytes.
const maxMessage = 16 << 20

// Op says what a Request asks for.
type Op string

// The calls.
const (
	OpInfo   Op = "info"   // the Pod's configuration and the shim's process
	OpStart  Op = "start"  // start a container
	OpList   Op = "list"   // every container's status
	OpSignal Op = "signal" // signal a container's first process
	OpRemove Op = "remove" // forget a container
	OpExec   Op = "exec"   // run a program in a container
	OpAttach Op = "attach" // join a container's streams
	OpEvents Op = "events" // every change from now on, after a Response with all statuses
	OpEnd    Op = "end"    // tell all containers to end, and wait for those that listen
	OpStop   Op = "stop"   // kill everything and end
)

// Request is what the agent sends. Fields that its Op does not need are empty.
type Request struct {
	Op     Op
	ID     string                   `json:",omitempty"` // container
	Start  *runtime.ContainerConfig `json:",omitempty"`
	Signal int                      `json:",omitempty"`
	Exec   *Exec                    `json:",omitempty"`
	Attach *Streams                 `json:",omitempty"`
}

// Exec is a program to run.
type Exec struct {
	Args []string
	Env  []string
	TTY  bool
	Streams
}

// Streams says which descriptors were sent with the request: in this order,
// those that are false left out.
type Streams struct {
	Stdin, Stdout, Stderr bool
}

// Files takes the descriptors apart; one that was not sent is nil.
func (s Streams) Files(sent []*os.File) (stdin, stdout, stderr *os.File) {
	next := func(wanted bool) *os.File {
		if !wanted || len(sent) == 0 {
			return nil
		}
		f := sent[0]
		sent = sent[1:]
		return f
	}
	return next(s.Stdin), next(s.Stdout), next(s.Stderr)
}

// Resize is sent by the agent while a program with a terminal runs.
type Resize struct {
	Width, Height uint16 // character cells
}

// Response is what the shim answers.
type Response struct {
	// Error is empty when the call succeeded.
	Error    string `json:",omitempty"`
	NotFound bool   `json:",omitempty"` // the container is not there

	Pod        *runtime.PodConfig        `json:",omitempty"`
	PID        int                       `json:",omitempty"` // the shim's, in the node's PID namespace
	Containers []runtime.ContainerStatus `json:",omitempty"`
	ExitCode   int                       `json:",omitempty"`
}

// Err is the response's error as a Go error.
func (r *Response) Err() error {
	switch {
	case r.NotFound:
		return runtime.ErrContainerNotFound
	case r.Error != "":
		return errors.New(r.Error)
	}
	return nil
}

// Write sends one message with descriptors beside it.
func Write(conn *net.UnixConn, message any, files ...*os.File) error {
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	frame = append(frame, body...)
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		n, _, err := conn.WriteMsgUnix(frame, unix.UnixRights(fds...), nil)
		if err != nil {
			return fmt.Errorf("send message: %w", err)
		}
		frame = frame[n:]
	}
	if _, err := conn.Write(frame); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

// Read receives one message and the descriptors that came with it. At the end
// of the connection it returns io.EOF.
func Read(conn *net.UnixConn, message any) ([]*os.File, error) {
	var header [4]byte
	oob := make([]byte, unix.CmsgSpace(3*4))
	n, oobn, _, _, err := conn.ReadMsgUnix(header[:], oob)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	files, err := received(oob[:oobn])
	if err == nil && n < len(header) {
		_, err = io.ReadFull(conn, header[n:])
	}
	var body []byte
	if err == nil {
		length := binary.BigEndian.Uint32(header[:])
		if length > maxMessage {
			err = fmt.Errorf("message of %d bytes is over the limit of %d", length, maxMessage)
		} else {
			body = make([]byte, length)
			_, err = io.ReadFull(conn, body)
		}
	}
	if err == nil {
		err = json.Unmarshal(body, message)
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return nil, fmt.Errorf("receive message: %w", err)
	}
	return files, nil
}

func received(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// Dial connects to the shim whose files are in dir. Socket addresses are short,
// so the directory is reached through its descriptor.
func Dial(dir string) (*net.UnixConn, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	path := fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), SocketName)
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
}
