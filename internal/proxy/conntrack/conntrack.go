// Package conntrack frees UDP flows that are stuck to a backend which is gone,
// or to none at all.
//
// The one idea: the kernel does the looking. One message with a filter
// (CTA_FILTER, Linux 5.8) deletes every entry that matches, however many there
// are, instead of a dump of the whole table.
package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Message and attribute numbers of ctnetlink (linux/netfilter/
// nfnetlink_conntrack.h).
const (
	deleteType = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE

	tupleOrig, tupleReply = 1, 2
	filter                = 25

	tupleIP, tupleProto                = 1, 2
	ipV4Src, ipV4Dst, ipV6Src, ipV6Dst = 1, 2, 3, 4
	protoNum, protoSrcPort, protoDst   = 1, 2, 3

	filterOrig, filterReply = 1, 2

	flagIPSrc, flagIPDst     = 1, 2
	flagProtoNum             = 8
	flagSrcPort, flagDstPort = 16, 32
)

// Conn frees flows of one network namespace: that of the thread which opens it.
type Conn struct{ c *netlink.Conn }

// Open opens a connection to the kernel's connection tracking.
func Open() (*Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open conntrack: %w", err)
	}
	return &Conn{c}, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.c.Close() }

// DeleteBackend frees the UDP flows whose answers come from a backend.
func (c *Conn) DeleteBackend(b netip.AddrPort) error {
	if err := c.delete(b, tupleReply, true); err != nil {
		return fmt.Errorf("free flows to %s: %w", b, err)
	}
	return nil
}

// DeleteFrontend frees the UDP flows to a frontend: those that began before it
// had an endpoint lead nowhere. The unspecified address stands for every one.
func (c *Conn) DeleteFrontend(f netip.AddrPort) error {
	if err := c.delete(f, tupleOrig, false); err != nil {
		return fmt.Errorf("free flows to %s: %w", f, err)
	}
	return nil
}

// delete removes entries with this address and port as source (or destination)
// of a tuple.
func (c *Conn) delete(a netip.AddrPort, tuple uint16, source bool) error {
	ipAttr := map[[2]bool]uint16{{true, false}: ipV4Src, {false, false}: ipV4Dst, {true, true}: ipV6Src, {false, true}: ipV6Dst}[[2]bool{source, a.Addr().Is6()}]
	portAttr, flags := uint16(protoDst), uint32(flagProtoNum|flagDstPort)
	if source {
		portAttr, flags = protoSrcPort, flagProtoNum|flagSrcPort
	}
	anyAddr := a.Addr().IsUnspecified()
	if !anyAddr {
		if source {
			flags |= flagIPSrc
		} else {
			flags |= flagIPDst
		}
	}
	e := netlink.NewAttributeEncoder()
	e.Nested(tuple, func(e *netlink.AttributeEncoder) error {
		e.Nested(tupleIP, func(e *netlink.AttributeEncoder) error {
			e.Bytes(ipAttr, a.Addr().AsSlice())
			return nil
		})
		e.Nested(tupleProto, func(e *netlink.AttributeEncoder) error {
			e.Uint8(protoNum, unix.IPPROTO_UDP)
			e.Bytes(portAttr, binary.BigEndian.AppendUint16(nil, a.Port()))
			return nil
		})
		return nil
	})
	e.Nested(filter, func(e *netlink.AttributeEncoder) error {
		orig, reply := flags, uint32(0)
		if tuple == tupleReply {
			orig, reply = 0, flags
		}
		e.Uint32(filterOrig, orig)
		e.Uint32(filterReply, reply)
		return nil
	})
	attrs, err := e.Encode()
	if err != nil {
		return err
	}
	family := byte(unix.AF_INET)
	if a.Addr().Is6() {
		family = unix.AF_INET6
	}
	_, err = c.c.Execute(netlink.Message{
		Header: netlink.Header{Type: deleteType, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append([]byte{family, 0, 0, 0}, attrs...),
	})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
