package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// entry is what counts of a UDP entry of the kernel's table.
type entry struct {
	dialed, answers netip.AddrPort
	translated      bool
	name            []byte // attributes that name it and no other
}

// freeMany looks for all flows in one dump and deletes what it finds.
func (c *Conn) freeMany(flows []Flow) error {
	var errs []error
	for _, v6 := range []bool{false, true} {
		want := make(map[Flow]bool, len(flows))
		for _, f := range flows {
			if f.Frontend.Addr().Is6() == v6 {
				want[f] = true
			}
		}
		if len(want) == 0 {
			continue
		}
		any := netip.IPv4Unspecified()
		if v6 {
			any = netip.IPv6Unspecified()
		}
		var found [][]byte
		err := c.dump(v6, nil, func(e entry) {
			var backend netip.AddrPort
			if e.translated {
				backend = e.answers
			}
			if want[Flow{e.dialed, backend}] || want[Flow{netip.AddrPortFrom(any, e.dialed.Port()), backend}] {
				found = append(found, e.name)
			}
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("list flows: %w", err))
		}
		errs = append(errs, c.remove(v6, found))
	}
	return errors.Join(errs...)
}

// remove deletes entries by their names.
func (c *Conn) remove(v6 bool, names [][]byte) error {
	var errs []error
	for _, name := range names {
		if _, err := c.c.Execute(message(deleteType, v6, name)); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("free a flow: %w", err))
		}
	}
	return errors.Join(errs...)
}

// dump calls fn with each UDP entry of a family, as they arrive: there may be
// hundreds of thousands. With a flow it is those that have its ports.
func (c *Conn) dump(v6 bool, of *Flow, fn func(entry)) error {
	any := netip.IPv4Unspecified()
	if v6 {
		any = netip.IPv6Unspecified()
	}
	e := netlink.NewAttributeEncoder()
	if of == nil {
		tuple(e, tupleOrig, netip.AddrPortFrom(any, 0), false)
		filterBy(e, flagProtoNum, 0)
	} else {
		answers := of.Backend.Port()
		if !of.Backend.IsValid() {
			answers = of.Frontend.Port()
		}
		orig := tuple(e, tupleOrig, netip.AddrPortFrom(any, of.Frontend.Port()), false)
		filterBy(e, orig, tuple(e, tupleReply, netip.AddrPortFrom(any, answers), true))
	}
	attrs, err := e.Encode()
	if err != nil {
		return err
	}
	ask := message(getType, v6, attrs)
	ask.Header.Flags = netlink.Request | netlink.Dump
	sent, err := c.c.Send(ask)
	if err != nil {
		return err
	}
	raw, err := c.c.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		var n int
		var readErr error
		if err := raw.Read(func(fd uintptr) bool {
			n, _, readErr = unix.Recvfrom(int(fd), buf, 0)
			return readErr != unix.EAGAIN && readErr != unix.EINTR
		}); err != nil {
			return err
		}
		if readErr != nil {
			return readErr
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return err
		}
		for _, m := range messages {
			if m.Header.Seq != sent.Header.Sequence {
				continue
			}
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				if len(m.Data) < 4 {
					return unix.EBADMSG
				}
				if code := int32(binary.NativeEndian.Uint32(m.Data)); code != 0 {
					return unix.Errno(-code)
				}
			default:
				if e, ok := parse(m.Data); ok {
					fn(e)
				}
			}
		}
	}
}

// parse reads an entry; other protocols' are not ok.
func parse(data []byte) (entry, bool) {
	var e entry
	if len(data) < 4 {
		return e, false
	}
	top, err := netlink.NewAttributeDecoder(data[4:])
	if err != nil {
		return e, false
	}
	udp := false
	for top.Next() {
		switch top.Type() {
		case tupleOrig:
			_, e.dialed, udp = parseTuple(top.Bytes())
			e.name = appendAttr(e.name, tupleOrig|netlink.Nested, top.Bytes())
		case tupleReply:
			e.answers, _, _ = parseTuple(top.Bytes())
		case status:
			e.translated = len(top.Bytes()) == 4 && binary.BigEndian.Uint32(top.Bytes())&statusDstNAT != 0
		case idAttr, zoneAttr:
			e.name = appendAttr(e.name, top.Type(), top.Bytes())
		}
	}
	return e, udp && top.Err() == nil
}

func parseTuple(data []byte) (src, dst netip.AddrPort, udp bool) {
	d, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return src, dst, false
	}
	var from, to netip.Addr
	var fromPort, toPort uint16
	for d.Next() {
		inner, err := netlink.NewAttributeDecoder(d.Bytes())
		if err != nil {
			return src, dst, false
		}
		for inner.Next() {
			b := inner.Bytes()
			switch what := inner.Type(); {
			case d.Type() == tupleIP && (what == ipV4Src || what == ipV6Src):
				from, _ = netip.AddrFromSlice(b)
			case d.Type() == tupleIP && (what == ipV4Dst || what == ipV6Dst):
				to, _ = netip.AddrFromSlice(b)
			case d.Type() == tupleProto && what == protoNum && len(b) == 1:
				udp = b[0] == unix.IPPROTO_UDP
			case d.Type() == tupleProto && what == protoSrcPort && len(b) == 2:
				fromPort = binary.BigEndian.Uint16(b)
			case d.Type() == tupleProto && what == protoDst && len(b) == 2:
				toPort = binary.BigEndian.Uint16(b)
			}
		}
	}
	return netip.AddrPortFrom(from, fromPort), netip.AddrPortFrom(to, toPort), udp
}

// appendAttr appends one attribute, padded.
func appendAttr(b []byte, kind uint16, data []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(data)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
