package nftables

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"viaduct.dev/viaduct/internal/servicetable"
)

func frontKey(addr netip.Addr, protocol uint8, port uint16) string {
	var b [24]byte
	return string(append(appendAddr(b[:0], addr), protocol, 0, 0, 0, byte(port>>8), byte(port), 0, 0))
}

func portKey(protocol uint8, port uint16) string {
	return string([]byte{protocol, 0, 0, 0, byte(port >> 8), byte(port), 0, 0})
}

func backendData(b netip.AddrPort) string {
	var a [20]byte
	return string(append(appendAddr(a[:0], b.Addr()), byte(b.Port()>>8), byte(b.Port()), 0, 0))
}

func appendAddr(b []byte, a netip.Addr) []byte {
	if a.Is4() {
		v := a.As4()
		return append(b, v[:]...)
	}
	v := a.As16()
	return append(b, v[:]...)
}

func slotKey(pool servicetable.PoolID, slot uint32) string {
	var b [8]byte
	binary.NativeEndian.PutUint32(b[:], uint32(pool)&poolMask)
	binary.NativeEndian.PutUint32(b[4:], slot)
	return string(b[:])
}

func numberData(n uint32) string {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], n)
	return string(b[:])
}

// change is what becomes of an element: it is there from now on, or no more, or
// with other data (both).
type change struct {
	element
	add, del bool
}

// eachChange gives what a Diff changes in a family.
func (s *Sink) eachChange(d *servicetable.Diff, v6 bool, each func(change)) {
	for i := range d.Slots {
		c := &d.Slots[i]
		if b := cmp.Or(c.New, c.Old); b.Addr().Is6() != v6 {
			continue
		}
		e := element{set: "eps", at: at{key: slotKey(c.Pool, c.Slot)}}
		if c.New.IsValid() {
			e.data = backendData(c.New)
			if c.Slot == 0 {
				e.comment = s.label(c.Pool)
			}
		}
		each(change{e, c.New.IsValid(), c.Old.IsValid()})
	}
	for i := range d.Frontends {
		c := &d.Frontends[i]
		if c.Frontend.Addr.Is6() != v6 {
			continue
		}
		f, set, ext := c.Frontend, "svc", "svc_ext"
		key := ""
		if f.IsNodePort() {
			key, set, ext = portKey(uint8(f.Protocol), f.Port), "np", "np_ext"
		} else {
			key = frontKey(f.Addr, uint8(f.Protocol), f.Port)
		}
		wasInternal, wasExternal := numbers(&c.Old)
		internal, external := numbers(&c.New)
		for _, n := range [...]struct {
			set     string
			was, is uint32
		}{{set, wasInternal, internal}, {ext, wasExternal, external}} {
			if n.was == n.is {
				continue
			}
			e := element{set: n.set, at: at{key: key}, comment: c.New.Service}
			if n.is != 0 {
				e.data = numberData(n.is)
			}
			each(change{e, n.is != 0, n.was != 0})
		}
	}
	for _, c := range d.Sources {
		if c.Frontend.Addr.Is6() == v6 {
			each(change{source(c.Frontend, c.Range), c.Added, !c.Added})
		}
	}
	for _, l := range d.Local {
		if l.Addr.Is6() == v6 {
			each(change{hairpin(l.Addr), l.Added, !l.Added})
		}
	}
}

// learn remembers whose pools a Diff tells of, for the comments of their slots.
func (s *Sink) learn(d *servicetable.Diff) {
	for i := range d.Frontends {
		c := &d.Frontends[i]
		for _, v := range [...]servicetable.View{c.New.Internal, c.New.External} {
			if v.Verdict != servicetable.Serve {
				continue
			}
			n := int(v.Pool) & poolMask
			if n >= len(s.labels) {
				s.labels = append(s.labels, make([]string, n+1-len(s.labels))...)
			}
			s.labels[n] = c.New.Service
		}
	}
}

func (s *Sink) label(p servicetable.PoolID) string {
	if n := int(p) & poolMask; n < len(s.labels) {
		return s.labels[n]
	}
	return ""
}

// order puts changes so that every one of them may be a transaction of its own:
// what a frontend leads to is there before it, and goes after it.
func order(all []change) {
	slices.SortStableFunc(all, func(a, b change) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), strings.Compare(a.set, b.set))
	})
}

func (c *change) rank() int {
	switch c.set {
	case "svc", "np":
		return 2
	case "svc_ext", "np_ext": // without it, everybody has the internal view
		if c.add {
			return 1
		}
		return 3
	}
	if c.add {
		return 0
	}
	return 4
}

func hairpin(a netip.Addr) element {
	var b [32]byte
	return element{set: "hairpin", at: at{key: string(appendAddr(appendAddr(b[:0], a), a))}}
}

// source lets a range of callers into a guarded frontend.
func source(f servicetable.Frontend, p netip.Prefix) element {
	front := frontKey(f.Addr, uint8(f.Protocol), f.Port)
	return element{set: "sources", at: at{
		key: front + string(p.Masked().Addr().AsSlice()),
		to:  front + string(last(p).AsSlice()),
	}}
}

// parseFront reads a frontend's key back.
func parseFront(key string, size int) (servicetable.Frontend, bool) {
	if len(key) != size+8 {
		return servicetable.Frontend{}, false
	}
	addr, ok := netip.AddrFromSlice([]byte(key[:size]))
	return servicetable.Frontend{Addr: addr, Protocol: servicetable.Protocol(key[size]), Port: binary.BigEndian.Uint16([]byte(key[size+4:]))}, ok
}
