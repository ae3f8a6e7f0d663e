package link

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Message is one thing said. Exactly one field is set.
type Message struct {
	// From a node to the supervisor:

	// Step says what the node has done.
	Step *Step `json:"step,omitempty"`
	// Ready says that the node does all that is asked of it.
	Ready bool `json:"ready,omitempty"`
	// Failed says why the node is about to end.
	Failed string `json:"failed,omitempty"`
	// Serving says that the API answers.
	Serving bool `json:"serving,omitempty"`
	// Open asks for a port on the host's 127.0.0.1; the answer is Opened.
	Open *Port `json:"open,omitempty"`
	// Close gives a port back.
	Close *Port `json:"close,omitempty"`
	// Settled says that every port that is wanted has been asked for, so that
	// those of an earlier process of the node can go.
	Settled bool `json:"settled,omitempty"`

	// Dial asks for a socket to an upstream DNS server; the answer is Dialled.
	Dial *Dial `json:"dial,omitempty"`

	// From the supervisor to a node:

	// Go says that the node's network is there; for the first node it carries
	// the API's listener on the host.
	Go bool `json:"go,omitempty"`
	// Connect says that the API can be reached.
	Connect bool `json:"connect,omitempty"`
	// Opened carries the socket of a port, or says why there is none.
	Opened *Opened `json:"opened,omitempty"`
	// Dialled carries the socket, or says why there is none.
	Dialled *Dialled `json:"dialled,omitempty"`
}

// Step is something done on the way up.
type Step struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took"`
}

// Port is a port of a Service that is offered on the host.
type Port struct {
	Service  string `json:"service"`  // namespace/name:port
	Kind     string `json:"kind"`     // NodePort or LoadBalancer
	Protocol string `json:"protocol"` // TCP or UDP
	Port     uint16 `json:"port"`     // inside
}

// Opened is a port and where it is on the host.
type Opened struct {
	Port
	HostPort uint16 `json:"hostPort"`
	Error    string `json:"error,omitempty"`
}

// Dial is a socket to an address outside the box.
type Dial struct {
	ID      uint64 `json:"id"`
	Network string `json:"network"` // udp or tcp
	Address string `json:"address"`
}

// Dialled answers the Dial of that ID.
type Dialled struct {
	ID    uint64 `json:"id"`
	Error string `json:"error,omitempty"`
}

// Conn is one end of a link. It may be used by several senders and one
// receiver.
type Conn struct {
	conn *net.UnixConn
	send sync.Mutex
	buf  []byte
	oob  []byte
}

const maxMessage = 64 << 10

// Pair makes a link: the caller's end, and the one for ExtraFiles of a process
// to be started, which the caller closes after that.
func Pair() (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a link: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "link")
	ours, err := FromFile(os.NewFile(uintptr(fds[0]), "link"))
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// FromFile makes an end of a link from its descriptor, and closes the file.
func FromFile(f *os.File) (*Conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open the link: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("open the link: not a unix socket")
	}
	return &Conn{conn: u, buf: make([]byte, maxMessage), oob: make([]byte, unix.CmsgSpace(16*4))}, nil
}

// Send sends a message with descriptors, which stay the caller's.
func (c *Conn) Send(m Message, files ...*os.File) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	c.send.Lock()
	defer c.send.Unlock()
	if _, _, err := c.conn.WriteMsgUnix(text, oob, nil); err != nil {
		return fmt.Errorf("send on the link: %w", err)
	}
	return nil
}

// Receive waits for a message. The descriptors that came with it are the
// caller's. It returns io.EOF when the other end is gone.
func (c *Conn) Receive() (Message, []*os.File, error) {
	n, oobn, flags, _, err := c.conn.ReadMsgUnix(c.buf, c.oob)
	if err != nil || n == 0 {
		if err == nil || errors.Is(err, unix.ECONNRESET) || errors.Is(err, net.ErrClosed) {
			err = io.EOF
		}
		return Message{}, nil, err
	}
	files, err := received(c.oob[:oobn])
	if err != nil {
		return Message{}, nil, err
	}
	var m Message
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("the message is too long")
	} else {
		err = json.Unmarshal(c.buf[:n], &m)
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return Message{}, nil, fmt.Errorf("receive on the link: %w", err)
	}
	return m, files, nil
}

func received(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("receive on the link: %w", err)
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// Close ends the link.
func (c *Conn) Close() error { return c.conn.Close() }
