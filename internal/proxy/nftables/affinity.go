package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"viaduct.dev/viaduct/internal/servicetable"
)

// clients are those that a table binds to a backend, with the time that is left.
// A table of another layout has none that could be kept.
func (c *conn) clients(f family) []element {
	var all []element
	err := c.elements(f.proto, "aff", func(e element) {
		if _, ok := f.binding(e); ok && e.expiration > 0 && e.expiration <= e.timeout {
			all = append(all, e)
		}
	})
	if err != nil {
		return nil
	}
	return all
}

// binding is a client that stays with a backend of a frontend. The address of a
// node port is the one that was dialed.
type binding struct {
	client   netip.Addr
	frontend servicetable.Frontend
	backend  netip.AddrPort
}

func (f family) binding(e element) (b binding, ok bool) {
	size := int(f.size)
	if len(e.key) != 2*size+8 || len(e.data) != size+4 {
		return b, false
	}
	b.client, _ = netip.AddrFromSlice([]byte(e.key[:size]))
	b.frontend, ok = parseFront(e.key[size:], size)
	backend, _ := netip.AddrFromSlice([]byte(e.data[:size]))
	b.backend = netip.AddrPortFrom(backend, binary.BigEndian.Uint16([]byte(e.data[size:])))
	return b, ok
}

// nodePort is the frontend as which a table knows a node port.
func nodePort(f servicetable.Frontend) servicetable.Frontend {
	if f.Addr.Is6() {
		f.Addr = netip.IPv6Unspecified()
	} else {
		f.Addr = netip.IPv4Unspecified()
	}
	return f
}

// Forget frees the clients of a frontend that are bound to a backend which left
// it, so that they choose anew. It costs nothing where nobody can be bound.
func (s *Sink) Forget(gone []servicetable.Gone) error {
	var errs []error
	for _, f := range s.families {
		type bond struct {
			frontend servicetable.Frontend
			backend  netip.AddrPort
		}
		drop := map[bond]bool{}
		for _, g := range gone {
			if g.Affinity && g.Frontend.Addr.Is6() == f.v6 {
				drop[bond{g.Frontend, g.Backend}] = true
			}
		}
		if len(drop) == 0 || f.fresh {
			continue
		}
		errs = append(errs, s.forget(f, func(e element) bool {
			b, ok := f.binding(e)
			return ok && (drop[bond{b.frontend, b.backend}] || drop[bond{nodePort(b.frontend), b.backend}])
		}))
	}
	return errors.Join(errs...)
}

// forget frees clients.
func (s *Sink) forget(f *programmed, which func(element) bool) error {
	var changes []change
	err := s.conn.elements(f.proto, "aff", func(e element) {
		if which(e) {
			changes = append(changes, change{element: element{set: e.set, at: e.at}, del: true})
		}
	})
	if err != nil {
		return fmt.Errorf("read map aff: %w", err)
	}
	return s.program(f, changes)
}

// forgetUnkept frees the clients of frontends that have no session affinity any
// more: nobody would tell of a backend that leaves them meanwhile.
func (s *Sink) forgetUnkept(f *programmed, d *servicetable.Diff) error {
	var which map[servicetable.Frontend]bool
	for i := range d.Frontends {
		c := &d.Frontends[i]
		if c.Frontend.Addr.Is6() == f.v6 && keepClass(&c.Old) > 0 && keepClass(&c.New) == 0 {
			if which == nil {
				which = map[servicetable.Frontend]bool{}
			}
			which[c.Frontend] = true
		}
	}
	if which == nil {
		return nil
	}
	return s.forget(f, func(e element) bool {
		b, ok := f.binding(e)
		return ok && (which[b.frontend] || which[nodePort(b.frontend)])
	})
}

// notBound tells, by a whole Snapshot, which clients have no reason any more to
// stay with their backend: what has changed while nobody looked.
func (f *programmed) notBound(d *servicetable.Diff, s *Sink) func(element) bool {
	targets := map[servicetable.Frontend]servicetable.Target{}
	kept := map[servicetable.PoolID]map[netip.AddrPort]bool{}
	for i := range d.Frontends {
		c := &d.Frontends[i]
		if c.Frontend.Addr.Is6() != f.v6 || keepClass(&c.New) == 0 {
			continue
		}
		targets[c.Frontend] = c.New
		for _, v := range [...]servicetable.View{c.New.Internal, c.New.External} {
			if v.Verdict == servicetable.Serve {
				kept[v.Pool] = map[netip.AddrPort]bool{}
			}
		}
	}
	for i := range d.Slots {
		if pool := kept[d.Slots[i].Pool]; pool != nil {
			pool[d.Slots[i].New] = true
		}
	}
	pods := ofFamily(s.node.LocalCIDRs, f.v6)
	return func(e element) bool {
		b, ok := f.binding(e)
		if !ok {
			return true
		}
		t, ok := targets[b.frontend]
		if !ok {
			if t, ok = targets[nodePort(b.frontend)]; !ok {
				return true
			}
		}
		// Who is taken for a stranger may be the node itself: it chooses anew then.
		view := t.External
		for _, p := range pods {
			if p.Contains(b.client) && s.cfg.Local == (LocalTraffic{}) {
				view = t.Internal
			}
		}
		return !kept[view.Pool][b.backend]
	}
}
