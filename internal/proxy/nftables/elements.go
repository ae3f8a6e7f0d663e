package nftables

import (
	"encoding/binary"
	"net/netip"

	"viaduct.dev/viaduct/internal/servicetable"
)

func frontKey(addr netip.Addr, protocol uint8, port uint16) string {
	b := addr.AsSlice()
	return string(append(append(b, protocol, 0, 0, 0), byte(port>>8), byte(port), 0, 0))
}

func portKey(protocol uint8, port uint16) string {
	return string([]byte{protocol, 0, 0, 0, byte(port >> 8), byte(port), 0, 0})
}

func backendData(b netip.AddrPort) string {
	return string(append(b.Addr().AsSlice(), byte(b.Port()>>8), byte(b.Port()), 0, 0))
}

func slotKey(pool servicetable.PoolID, slot uint32) string {
	return string(append(native(uint32(pool)&poolMask), native(slot)...))
}

// leadsTo is what a frontend leads to: the class of its pool's size and the pool.
func leadsTo(v servicetable.View) string {
	class := classOf(v.Size)
	if v.Pool.AffinityClass() > 0 {
		class += affinityClass
	}
	return string(native(class<<classShift | uint32(v.Pool)&poolMask))
}

// elementsOf are the elements of a frontend: the whole meaning of a target.
func elementsOf(f servicetable.Frontend, t servicetable.Target) []element {
	var all []element
	key, nodePort := frontKey(f.Addr, uint8(f.Protocol), f.Port), f.IsNodePort()
	if nodePort {
		key = portKey(uint8(f.Protocol), f.Port)
	}
	pick := func(front, np string) string {
		if nodePort {
			return np
		}
		return front
	}
	add := func(set, data string) {
		if set != "" {
			all = append(all, element{set: set, at: at{key: key}, data: data})
		}
	}
	switch t.Internal.Verdict {
	case servicetable.Serve:
		add(pick("svc", "np"), leadsTo(t.Internal))
	case servicetable.Refuse:
		add(pick("noep", "noep_np"), "")
	case servicetable.Drop:
		add(pick("drop_any", ""), "")
	}
	if t.External != t.Internal {
		switch t.External.Verdict {
		case servicetable.Serve:
			add(pick("svc_ext", "np_ext"), leadsTo(t.External))
		case servicetable.Drop:
			add(pick("drop_ext", "drop_np"), "")
		}
	}
	if t.Guarded {
		add(pick("guarded", ""), "")
	}
	switch t.Hide {
	case servicetable.HideOffCluster:
		add(pick("hide_off_cluster", ""), "")
	case servicetable.HideEverybody:
		add(pick("hide_all", "hide_all_np"), "")
	case servicetable.HideNode:
		add(pick("hide_node", "hide_node_np"), "")
	}
	class := max(t.Internal.Pool.AffinityClass(), t.External.Pool.AffinityClass())
	if class > 0 {
		add(pick(affinitySet(class), affinityPortSet(class)), "")
	}
	return all
}

// change is an element before and after.
type change struct {
	del, add *element
}

// changesOf turns a Diff into changes of one family's elements.
func changesOf(d *servicetable.Diff, v6 bool) []change {
	var all []change
	for i := range d.Slots {
		s := &d.Slots[i]
		b := s.New
		if !b.IsValid() {
			b = s.Old
		}
		if b.Addr().Is6() != v6 {
			continue
		}
		var c change
		key := slotKey(s.Pool, s.Slot)
		if s.Old.IsValid() {
			c.del = &element{set: "eps", at: at{key: key}, data: backendData(s.Old)}
		}
		if s.New.IsValid() {
			c.add = &element{set: "eps", at: at{key: key}, data: backendData(s.New)}
		}
		all = append(all, c)
	}
	for i := range d.Frontends {
		fc := &d.Frontends[i]
		if fc.Frontend.Addr.Is6() != v6 {
			continue
		}
		type id struct{ set, key string }
		now := map[id]element{}
		for _, e := range elementsOf(fc.Frontend, fc.New) {
			now[id{e.set, e.key}] = e
		}
		for _, e := range elementsOf(fc.Frontend, fc.Old) {
			k := id{e.set, e.key}
			if n, ok := now[k]; ok && n.data == e.data {
				delete(now, k)
				continue
			} else if ok {
				all = append(all, change{&e, &n})
				delete(now, k)
				continue
			}
			all = append(all, change{del: &e})
		}
		for _, e := range now {
			all = append(all, change{add: &e})
		}
	}
	for _, c := range d.Sources {
		if c.Frontend.Addr.Is6() != v6 {
			continue
		}
		if e := source(c.Frontend, c.Range); c.Added {
			all = append(all, change{add: e})
		} else {
			all = append(all, change{del: e})
		}
	}
	for _, l := range d.Local {
		switch {
		case l.Addr.Is6() != v6:
		case l.Added:
			all = append(all, change{add: hairpin(l.Addr)})
		default:
			all = append(all, change{del: hairpin(l.Addr)})
		}
	}
	return all
}

func hairpin(a netip.Addr) *element {
	b := a.AsSlice()
	return &element{set: "hairpin", at: at{key: string(append(b, b...))}}
}

// source lets a range of callers into a guarded frontend.
func source(f servicetable.Frontend, p netip.Prefix) *element {
	front := frontKey(f.Addr, uint8(f.Protocol), f.Port)
	return &element{set: "sources", at: at{
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
