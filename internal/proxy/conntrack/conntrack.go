// Package conntrack frees UDP flows that are stuck to a backend which is gone,
// or to none at all.
//
// The one idea: the kernel does the looking. One message with a filter
// (CTA_FILTER, Linux 5.8) deletes every entry that matches, however many there
// are, instead of a dump of the whole table. Each such message walks the table
// once, so many flows at once are looked for in one dump after all.
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
// nfnetlink_conntrack.h, nf_conntrack_common.h).
const (
	newType    = unix.NFNL_SUBSYS_CTNETLINK << 8
	getType    = newType | 1
	deleteType = newType | 2

	tupleOrig, tupleReply = 1, 2
	status                = 3
	idAttr                = 12
	zoneAttr              = 18
	filter                = 25
	statusMask            = 26

	tupleIP, tupleProto                = 1, 2
	ipV4Src, ipV4Dst, ipV6Src, ipV6Dst = 1, 2, 3, 4
	protoNum, protoSrcPort, protoDst   = 1, 2, 3

	filterOrig, filterReply = 1, 2

	flagIPSrc, flagIPDst     = 1, 2
	flagProtoNum             = 8
	flagSrcPort, flagDstPort = 16, 32

	statusDstNAT = 1 << 5
)

// few is up to how many flows are each freed by a message of its own.
const few = 16

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

// Flow names the UDP flows from a frontend to a backend. A frontend with the
// unspecified address stands for its port at any address: a node port. Without a
// Backend it names those that nothing was translated of: they began before the
// frontend had an endpoint, and lead nowhere.
type Flow struct{ Frontend, Backend netip.AddrPort }

// String is such as 10.96.0.10:53 -> 10.0.1.7:53.
func (f Flow) String() string {
	if !f.Backend.IsValid() {
		return fmt.Sprintf("%s -> nowhere", f.Frontend)
	}
	return fmt.Sprintf("%s -> %s", f.Frontend, f.Backend)
}

// Free frees these flows and no others. That there are none is no error.
func (c *Conn) Free(flows []Flow) error {
	if len(flows) > few {
		return c.freeMany(flows)
	}
	var errs []error
	for i, f := range flows {
		err := c.freeOne(f)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			// A kernel that does not know the filter.
			return errors.Join(append(errs, c.freeMany(flows[i:]))...)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("free flows %s: %w", f, err))
		}
	}
	return errors.Join(errs...)
}

// freeOne deletes what the kernel finds by both tuples. That it was translated
// at all matters only where the tuples cannot tell: at a node port, which is any
// address's, a Pod may also have been dialed at its own. Kernels before 5.15
// pass that over, and free a flow that then finds its way anew.
func (c *Conn) freeOne(f Flow) error {
	if f.Frontend.Addr().Is6() {
		return c.freeIPv6(f)
	}
	reply, want := f.Backend, uint32(statusDstNAT)
	if !reply.IsValid() {
		reply, want = f.Frontend, 0
	}
	e := netlink.NewAttributeEncoder()
	orig := tuple(e, tupleOrig, f.Frontend, false)
	back := tuple(e, tupleReply, reply, true)
	if f.Frontend.Addr().IsUnspecified() {
		e.Bytes(status, binary.BigEndian.AppendUint32(nil, want))
		e.Bytes(statusMask, binary.BigEndian.AppendUint32(nil, statusDstNAT))
	}
	filterBy(e, orig, back)
	return c.execute(deleteType, f.Frontend.Addr().Is6(), e)
}

// freeIPv6 lets the kernel look by ports alone, and looks at addresses itself:
// the kernel's filter takes IPv6 addresses the wrong way round (seen on 6.18: it
// passes over those that are equal and finds all others).
func (c *Conn) freeIPv6(f Flow) error {
	var found [][]byte
	err := c.dump(true, &f, func(e entry) {
		if f.matches(e) {
			found = append(found, e.name)
		}
	})
	return errors.Join(err, c.remove(true, found))
}

func (f Flow) matches(e entry) bool {
	if e.dialed != f.Frontend && (!f.Frontend.Addr().IsUnspecified() || e.dialed.Port() != f.Frontend.Port()) {
		return false
	}
	return e.translated == f.Backend.IsValid() && (!e.translated || e.answers == f.Backend)
}

// tuple encodes an address and port as source or destination of a tuple, and
// returns the flags of a filter that heeds them.
func tuple(e *netlink.AttributeEncoder, which uint16, a netip.AddrPort, source bool) uint32 {
	ipAttr := map[[2]bool]uint16{{true, false}: ipV4Src, {false, false}: ipV4Dst, {true, true}: ipV6Src, {false, true}: ipV6Dst}[[2]bool{source, a.Addr().Is6()}]
	portAttr, ipFlag, flags := uint16(protoDst), uint32(flagIPDst), uint32(flagProtoNum|flagDstPort)
	if source {
		portAttr, ipFlag, flags = protoSrcPort, flagIPSrc, flagProtoNum|flagSrcPort
	}
	if !a.Addr().IsUnspecified() {
		flags |= ipFlag
	}
	e.Nested(which, func(e *netlink.AttributeEncoder) error {
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
	return flags
}

func filterBy(e *netlink.AttributeEncoder, orig, reply uint32) {
	e.Nested(filter, func(e *netlink.AttributeEncoder) error {
		e.Uint32(filterOrig, orig)
		e.Uint32(filterReply, reply)
		return nil
	})
}

func message(kind netlink.HeaderType, v6 bool, attrs []byte) netlink.Message {
	family := byte(unix.AF_INET)
	if v6 {
		family = unix.AF_INET6
	}
	return netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append([]byte{family, 0, 0, 0}, attrs...),
	}
}

func (c *Conn) execute(kind netlink.HeaderType, v6 bool, e *netlink.AttributeEncoder) error {
	attrs, err := e.Encode()
	if err != nil {
		return err
	}
	_, err = c.c.Execute(message(kind, v6, attrs))
	return err
}
