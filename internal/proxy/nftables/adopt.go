package nftables

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"

	"viaduct.dev/viaduct/internal/servicetable"
)

// marker is a chain whose name tells which rules a table was made with.
func (f family) marker(cfg Config) string {
	h := fnv.New32a()
	for _, ch := range f.chains(cfg) {
		fmt.Fprint(h, ch.name, ch.kind, ch.hook, ch.priority)
		for _, r := range ch.rules {
			var a attrs
			for _, e := range r {
				e(&a)
			}
			h.Write(a.b)
		}
	}
	for _, s := range f.sets() {
		fmt.Fprint(h, s)
	}
	fmt.Fprint(h, f.constant(cfg))
	return fmt.Sprintf("rules_%08x", h.Sum32())
}

// find looks for an earlier process's table and makes it ours.
func (s *Sink) find(f *programmed, prior *servicetable.Prior) error {
	chains, err := s.conn.chainNames(f.proto)
	if err != nil {
		return fmt.Errorf("read table %s: %w", TableName, err)
	}
	f.stale, f.bound, f.fresh, f.replace = nil, nil, true, false
	there, err := s.conn.hasTable(f.proto)
	if err != nil {
		return fmt.Errorf("read table %s: %w", TableName, err)
	}
	if !there {
		return nil
	}
	// A table becomes ours by naming it, unless its owner lives.
	flags, err := s.adopt(f, s.flags)
	if err != nil {
		return err
	}
	if slices.Contains(chains, f.marker(s.cfg)) {
		f.fresh, s.flags = false, flags
		return s.read(f, prior)
	}
	// One with other rules, as another version or other flags make it, serves
	// until ours takes its place. Clients stay where they are bound.
	f.replace = true
	f.bound = s.conn.clients(f.family)
	return nil
}

// adopt names the table, by which it becomes ours. One that was made without an
// owner stays so.
func (s *Sink) adopt(f *programmed, flags uint32) (uint32, error) {
	for {
		t := newBatch(f.proto)
		t.newTable(flags)
		err := s.conn.commit(t)
		if err == nil {
			return flags, nil
		}
		if flags == 0 {
			return 0, fmt.Errorf("adopt table %s, which another process may own: %w", TableName, err)
		}
		flags = 0
	}
}

// read takes over what the table holds.
func (s *Sink) read(f *programmed, prior *servicetable.Prior) error {
	f.stale = map[string]map[at]string{}
	for _, set := range f.sets() {
		switch set.name {
		case "aff", "lb", "hidden", "local": // the servers on the node say anew where they listen
			continue
		}
		have := map[at]string{}
		err := s.conn.elements(f.proto, set.name, func(e element) { have[e.at] = e.data })
		if err != nil {
			return fmt.Errorf("read set %s: %w", set.name, err)
		}
		if len(have) > 0 {
			f.stale[set.name] = have
		}
	}
	f.seed(prior)
	return nil
}

// Reload reads back what the kernel holds, so that the next Apply, of a whole
// Snapshot, writes just what is different: the way back after an error. A table
// that somebody else has touched is made anew.
func (s *Sink) Reload() error {
	touched := s.monitor != nil && s.monitor.touched.Swap(false)
	for _, f := range s.families {
		ignored := noPrior()
		if err := s.find(f, &ignored); err != nil {
			return err
		}
		if touched && !f.fresh {
			f.fresh, f.replace, f.stale = true, true, nil
			f.bound = s.conn.clients(f.family)
		}
	}
	return nil
}

func noPrior() servicetable.Prior {
	return servicetable.Prior{Frontends: map[servicetable.Frontend]servicetable.PriorTarget{}, Slots: map[servicetable.PoolID][]netip.AddrPort{}}
}

// seed tells the numbers that frontends and slots have.
func (f *programmed) seed(prior *servicetable.Prior) {
	any := netip.IPv4Unspecified()
	if f.v6 {
		any = netip.IPv6Unspecified()
	}
	front := func(key string) (servicetable.Frontend, bool) { return parseFront(key, int(f.size)) }
	port := func(key string) (servicetable.Frontend, bool) {
		if len(key) != 8 {
			return servicetable.Frontend{}, false
		}
		return servicetable.Frontend{Addr: any, Protocol: servicetable.Protocol(key[0]), Port: binary.BigEndian.Uint16([]byte(key[4:]))}, true
	}
	pools := map[uint32]servicetable.PoolID{}
	for _, m := range []struct {
		set      string
		parse    func(string) (servicetable.Frontend, bool)
		external bool
	}{{"svc", front, false}, {"np", port, false}, {"svc_ext", front, true}, {"np_ext", port, true}} {
		for e, value := range f.stale[m.set] {
			fe, ok := m.parse(e.key)
			if !ok || len(value) < 4 {
				continue
			}
			id := poolOf(binary.NativeEndian.Uint32([]byte(value)))
			if id == 0 {
				continue
			}
			pools[uint32(id)&poolMask] = id
			t := prior.Frontends[fe]
			if m.external {
				t.External = id
			} else {
				t.Internal = id
				if t.External == 0 {
					t.External = id
				}
			}
			prior.Frontends[fe] = t
		}
	}
	for e, value := range f.stale["eps"] {
		key := e.key
		if len(key) != 8 || len(value) < int(f.size)+2 {
			continue
		}
		id, ok := pools[binary.NativeEndian.Uint32([]byte(key))]
		slot := int(binary.NativeEndian.Uint32([]byte(key[4:])))
		if !ok || slot > maxSlot {
			continue
		}
		addr, _ := netip.AddrFromSlice([]byte(value[:f.size]))
		list := prior.Slots[id]
		for len(list) <= slot {
			list = append(list, netip.AddrPort{})
		}
		list[slot] = netip.AddrPortFrom(addr, binary.BigEndian.Uint16([]byte(value[f.size:])))
		prior.Slots[id] = list
	}
}

// maxSlot bounds what is believed of a table that somebody may have written into.
const maxSlot = 1 << 16
