package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// attrs builds a list of netlink attributes.
type attrs struct{ b []byte }

func (a *attrs) bytes(kind uint16, v []byte) {
	n := 4 + len(v)
	a.b = binary.NativeEndian.AppendUint16(a.b, uint16(n))
	a.b = binary.NativeEndian.AppendUint16(a.b, kind)
	a.b = append(a.b, v...)
	for range (4 - n%4) % 4 {
		a.b = append(a.b, 0)
	}
}

func (a *attrs) str(kind uint16, s string) { a.bytes(kind, append([]byte(s), 0)) }

func (a *attrs) u8(kind uint16, v uint8) { a.bytes(kind, []byte{v}) }

// u32 and u64 are big endian, as all numbers of nf_tables are.
func (a *attrs) u32(kind uint16, v uint32) { a.bytes(kind, binary.BigEndian.AppendUint32(nil, v)) }

func (a *attrs) u64(kind uint16, v uint64) { a.bytes(kind, binary.BigEndian.AppendUint64(nil, v)) }

func (a *attrs) nested(kind uint16, fill func(*attrs)) {
	at := len(a.b)
	a.b = append(a.b, 0, 0, 0, 0)
	fill(a)
	binary.NativeEndian.PutUint16(a.b[at:], uint16(len(a.b)-at))
	binary.NativeEndian.PutUint16(a.b[at+2:], kind|unix.NLA_F_NESTED)
}

// batch is a transaction: all of it happens, or nothing.
type batch struct {
	family uint8
	b      []byte
	names  []string // what each message does, by sequence number from 1
	list   list     // the message that elements are being added to
}

const (
	headerSize = 16 + 4 // nlmsghdr and nfgenmsg
	batchBegin = unix.NFNL_MSG_BATCH_BEGIN
	batchEnd   = unix.NFNL_MSG_BATCH_END
)

func message(b []byte, kind uint16, flags uint16, seq uint32, family uint8, res uint16, fill func(*attrs)) []byte {
	at := len(b)
	b = append(b, make([]byte, headerSize)...)
	a := attrs{b}
	if fill != nil {
		fill(&a)
	}
	b = a.b
	binary.NativeEndian.PutUint32(b[at:], uint32(len(b)-at))
	binary.NativeEndian.PutUint16(b[at+4:], kind)
	binary.NativeEndian.PutUint16(b[at+6:], flags|unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(b[at+8:], seq)
	b[at+16] = family
	binary.BigEndian.PutUint16(b[at+18:], res)
	return b
}

func newBatch(family uint8) *batch {
	t := &batch{family: family}
	t.b = message(nil, batchBegin, 0, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
	return t
}

func (t *batch) add(kind uint16, flags uint16, what string, fill func(*attrs)) {
	t.close()
	t.names = append(t.names, what)
	t.b = message(t.b, unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags, uint32(len(t.names)), t.family, 0, fill)
}

func (t *batch) empty() bool { return len(t.names) == 0 }

// conn is a netlink socket. The tables that it makes are owned by it.
type conn struct {
	fd  int
	ear int    // a socket of the same namespace, for what the kernel tells by itself; -1 when a monitor has it
	seq uint32 // of the last message: what came late is told by its number
	// sent counts the bytes of all transactions.
	sent uint64
	buf  [1 << 15]byte // of answers
}

func dial() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	ear, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	c := &conn{fd: fd, ear: ear}
	// A batch is sent whole: the larger of what is allowed.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 512<<20) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
	}
	// A refusal need not bring the refused message back.
	unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	tv := unix.NsecToTimeval(int64(time.Minute))
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	for _, s := range []int{fd, ear} {
		if err := unix.Bind(s, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			c.close()
			return nil, fmt.Errorf("bind netlink: %w", err)
		}
	}
	return c, nil
}

func (c *conn) close() {
	unix.Close(c.fd)
	if c.ear >= 0 {
		unix.Close(c.ear)
	}
}

// port is the address by which the kernel tells what this socket has asked for.
func (c *conn) port() (uint32, error) {
	sa, err := unix.Getsockname(c.fd)
	if err != nil {
		return 0, err
	}
	nl, ok := sa.(*unix.SockaddrNetlink)
	if !ok {
		return 0, unix.EAFNOSUPPORT
	}
	return nl.Pid, nil
}

// ElementError says which message of a batch the kernel refused.
type ElementError struct {
	What string
	Err  error
}

func (e *ElementError) Error() string { return e.What + ": " + e.Err.Error() }

// Unwrap gives the kernel's error.
func (e *ElementError) Unwrap() error { return e.Err }

// commit sends a batch and waits for the kernel's word.
func (c *conn) commit(t *batch) error {
	if t.empty() {
		return nil
	}
	t.close()
	base, last := c.seq+1, uint32(len(t.names))
	c.seq += last + 2
	all := message(t.b, batchEnd, 0, last+1, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
	t.b = nil
	number(all, base, last)
	c.sent += uint64(len(all))
	if err := unix.Sendto(c.fd, all, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to nf_tables: %w", err)
	}
	var first error
	buf := c.buf[:]
	for {
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive from nf_tables: %w", err)
		}
		done := false
		err = eachMessage(buf[:n], func(kind uint16, seq uint32, body []byte) {
			seq -= base // what is of an earlier transaction wraps around
			if kind != unix.NLMSG_ERROR || len(body) < 4 || seq > last+1 {
				return
			}
			if code := int32(binary.NativeEndian.Uint32(body)); code != 0 && first == nil {
				what := "transaction"
				if seq >= 1 && seq <= last {
					what = t.names[seq-1]
				}
				first = &ElementError{what, unix.Errno(-code)}
			}
			if seq == last || seq == 0 || seq == last+1 {
				done = true
			}
		})
		if err != nil {
			return err
		}
		if done {
			return first
		}
	}
}

// number adds base to the numbers of a batch's messages, and asks for an
// acknowledgement of the last, which comes after the commit.
func number(all []byte, base, last uint32) {
	for at := 0; at < len(all); {
		n := int(binary.NativeEndian.Uint32(all[at:]))
		seq := binary.NativeEndian.Uint32(all[at+8:])
		if seq == last {
			flags := binary.NativeEndian.Uint16(all[at+6:])
			binary.NativeEndian.PutUint16(all[at+6:], flags|unix.NLM_F_ACK)
		}
		binary.NativeEndian.PutUint32(all[at+8:], base+seq)
		at += (n + 3) &^ 3
	}
}

func eachMessage(b []byte, fn func(kind uint16, seq uint32, body []byte)) error {
	return eachHeader(b, func(h header, body []byte) { fn(h.kind, h.seq, body) })
}

// header is what counts of a message's.
type header struct {
	kind      uint16
	seq, port uint32
}

func eachHeader(b []byte, fn func(h header, body []byte)) error {
	for len(b) >= 16 {
		n := int(binary.NativeEndian.Uint32(b))
		if n < 16 || n > len(b) {
			return errors.New("receive from nf_tables: message is cut off")
		}
		fn(header{binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[8:]), binary.NativeEndian.Uint32(b[12:])}, b[16:n])
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// dump asks for a list and gives each answer's attributes.
func (c *conn) dump(kind uint16, family uint8, fill func(*attrs), each func(body []byte)) error {
	return c.ask(kind, unix.NLM_F_DUMP, family, fill, each)
}

// ask is dump where there is one answer only, with the flag that has it
// acknowledged.
func (c *conn) ask(kind, flags uint16, family uint8, fill func(*attrs), each func(body []byte)) error {
	c.seq++
	b := message(nil, unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags, c.seq, family, 0, fill)
	if err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to nf_tables: %w", err)
	}
	buf := make([]byte, 1<<18)
	for {
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive from nf_tables: %w", err)
		}
		var code error
		done := false
		err = eachMessage(buf[:n], func(kind uint16, seq uint32, body []byte) {
			if seq != c.seq {
				return
			}
			switch kind {
			case unix.NLMSG_DONE:
				done = true
			case unix.NLMSG_ERROR:
				done = true
				if e := int32(binary.NativeEndian.Uint32(body)); e != 0 {
					code = unix.Errno(-e)
				}
			default:
				if len(body) >= 4 {
					each(body[4:])
				}
			}
		})
		if err != nil {
			return err
		}
		if code != nil || done {
			return code
		}
	}
}

// eachAttr walks a list of attributes.
func eachAttr(b []byte, fn func(kind uint16, v []byte)) {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return
		}
		fn(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[4:n])
		b = b[min((n+3)&^3, len(b)):]
	}
}
