package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/servicetable"
)

// Config says what the constant rules must know of the node.
type Config struct {
	// NodePortAddresses are the addresses that offer node ports.
	NodePortAddresses []netip.Addr
	// Masquerade is the address, one of each family, that traffic is given whose
	// answers must come back through this node.
	Masquerade []netip.Addr
	// PodCIDRs are where Pods are; ServiceCIDRs where cluster IPs are.
	PodCIDRs, ServiceCIDRs []netip.Prefix
	Log                    *slog.Logger
}

// Sink programs one network namespace: that of the thread which opens it. It is
// not safe for concurrent use.
type Sink struct {
	cfg      Config
	conn     *conn
	families []*programmed
}

// programmed is a family's table.
type programmed struct {
	family
	v6 bool
	// stale is what an earlier process has left and nobody has asked for yet, by
	// set and key; nil once the first Diff has been applied.
	stale map[string]map[at]string
}

// perTransaction bounds the elements of one transaction.
const perTransaction = 20000

// Open makes the tables, or adopts those of an earlier process with their
// contents. Prior is what they hold; hand it to the
// table's Adopt, and its Snapshot to Apply.
func Open(cfg Config) (*Sink, servicetable.Prior, error) {
	c, err := dial()
	if err != nil {
		return nil, servicetable.Prior{}, err
	}
	s := &Sink{cfg: cfg, conn: c, families: []*programmed{{family: ipv4}, {family: ipv6, v6: true}}}
	seed := servicetable.Prior{Frontends: map[servicetable.Frontend]servicetable.PriorTarget{}, Slots: map[servicetable.PoolID][]netip.AddrPort{}}
	for _, f := range s.families {
		if err := s.open(f, &seed); err != nil {
			c.close()
			return nil, seed, err
		}
	}
	return s, seed, nil
}

// Close gives the socket back. The tables stay.
func (s *Sink) Close() { s.conn.close() }

// marker is a chain whose name tells which rules a table was made with.
func (f family) marker() string {
	h := fnv.New32a()
	for _, ch := range f.chains() {
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
	return fmt.Sprintf("rules_%08x", h.Sum32())
}

func (s *Sink) open(f *programmed, seed *servicetable.Prior) error {
	chains, err := s.conn.chainNames(f.proto)
	if err != nil {
		return fmt.Errorf("read table %s: %w", TableName, err)
	}
	switch {
	case len(chains) == 0:
	case slices.Contains(chains, f.marker()):
		// Another process's table becomes ours by naming it.
		t := &batch{family: f.proto}
		t.newTable(tableOwner | tablePersist)
		if err := s.conn.commit(t); err != nil {
			t := &batch{family: f.proto}
			t.newTable(0)
			if err := s.conn.commit(t); err != nil {
				return fmt.Errorf("adopt table %s: %w", TableName, err)
			}
		}
		return s.read(f, seed)
	default: // of other rules: another version's
		t := &batch{family: f.proto}
		t.newTable(tableOwner | tablePersist)
		if err := s.conn.commit(t); err != nil {
			s.cfg.Log.Debug("table is not adopted", "err", err)
		}
		t = &batch{family: f.proto}
		t.deleteTable()
		if err := s.conn.commit(t); err != nil {
			return fmt.Errorf("replace table %s: %w", TableName, err)
		}
	}
	if err := s.conn.build(f.family); err != nil {
		return err
	}
	t := &batch{family: f.proto}
	t.elements(unix.NFT_MSG_NEWSETELEM, s.constants(f))
	t.newChain(chain{name: f.marker()})
	return s.conn.commit(t)
}

// constants are the elements that tell of the node and the cluster.
func (s *Sink) constants(f *programmed) []element {
	var all []element
	for _, a := range s.cfg.NodePortAddresses {
		if a.Is6() == f.v6 {
			all = append(all, element{set: "node_ips", at: at{key: string(a.AsSlice())}})
		}
	}
	for set, list := range map[string][]netip.Prefix{"pod_cidrs": s.cfg.PodCIDRs, "svc_cidrs": s.cfg.ServiceCIDRs} {
		for _, p := range list {
			if p.Addr().Is6() != f.v6 {
				continue
			}
			all = append(all, element{set: set, at: at{key: string(p.Masked().Addr().AsSlice())}})
			if end := last(p).Next(); end.IsValid() {
				all = append(all, element{set: set, at: at{key: string(end.AsSlice()), end: true}})
			}
		}
	}
	for _, a := range s.cfg.Masquerade {
		if a.Is6() == f.v6 {
			for _, p := range []servicetable.Protocol{servicetable.TCP, servicetable.UDP, servicetable.SCTP} {
				all = append(all, element{"snat_to", at{key: string([]byte{byte(p)})}, string(a.AsSlice())})
			}
		}
	}
	slices.SortFunc(all, func(a, b element) int { return strings.Compare(a.set+a.key, b.set+b.key) })
	return all
}

// last is the last address of a range.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// read takes over what the table holds.
func (s *Sink) read(f *programmed, seed *servicetable.Prior) error {
	f.stale = map[string]map[at]string{}
	for _, set := range f.sets() {
		if set.name == "aff" || set.name == "lb" {
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
	// What the configuration says is settled here, for good.
	for _, e := range s.constants(f) {
		have, ok := f.stale[e.set][e.at]
		delete(f.stale[e.set], e.at)
		if ok && have == e.data {
			continue
		}
		t := &batch{family: f.proto}
		if ok {
			t.elements(unix.NFT_MSG_DELSETELEM, []element{e})
		}
		t.elements(unix.NFT_MSG_NEWSETELEM, []element{e})
		if err := s.conn.commit(t); err != nil {
			return fmt.Errorf("adopt table %s: %w", TableName, err)
		}
	}
	delete(f.stale, "local") // the DNS server says anew where it listens
	f.seed(seed)
	return nil
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
	// The class of a pool's affinity is told by the set that its frontend is in.
	classes := map[string]uint8{}
	for i := range servicetable.AffinitySeconds {
		class := uint8(i + 1)
		for e := range f.stale[affinitySet(class)] {
			classes["front"+e.key] = class
		}
		for e := range f.stale[affinityPortSet(class)] {
			classes["port"+e.key] = class
		}
	}
	pools := map[uint32]servicetable.PoolID{}
	for _, m := range []struct {
		set, kind string
		parse     func(string) (servicetable.Frontend, bool)
		external  bool
	}{{"svc", "front", front, false}, {"np", "port", port, false}, {"svc_ext", "front", front, true}, {"np_ext", "port", port, true}} {
		for e, value := range f.stale[m.set] {
			fe, ok := m.parse(e.key)
			if !ok || len(value) < 4 {
				continue
			}
			number := binary.NativeEndian.Uint32([]byte(value)) & poolMask
			id := servicetable.PoolID(uint32(classes[m.kind+e.key])<<affinityShift | number)
			pools[number] = id
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

const (
	// affinityShift is where a PoolID holds its affinity class.
	affinityShift = 28
	// maxSlot bounds what is believed of a table that somebody may have written
	// into.
	maxSlot = 1 << 16
)

// Reload reads back what the kernel holds, so that the next Apply, of a whole
// Snapshot, writes just what is different: the way back after an error.
func (s *Sink) Reload() error {
	for _, f := range s.families {
		ignored := servicetable.Prior{Frontends: map[servicetable.Frontend]servicetable.PriorTarget{}, Slots: map[servicetable.PoolID][]netip.AddrPort{}}
		if err := s.read(f, &ignored); err != nil {
			return err
		}
	}
	return nil
}

// Apply programs a Diff. The first one also removes what an earlier process has
// left and nobody wants any more.
func (s *Sink) Apply(d *servicetable.Diff) error {
	var errs []error
	for _, f := range s.families {
		changes := changesOf(d, f.v6)
		if f.stale != nil {
			changes = f.reconcile(changes)
		}
		for start := 0; start < len(changes); start += perTransaction {
			errs = append(errs, s.program(f, changes[start:min(start+perTransaction, len(changes))]))
		}
		f.stale = nil
	}
	return errors.Join(errs...)
}

// reconcile leaves out what is there already, and adds the removal of the rest.
func (f *programmed) reconcile(changes []change) []change {
	var left []change
	for _, c := range changes {
		if c.add == nil {
			if c.del != nil {
				left = append(left, c)
				delete(f.stale[c.del.set], c.del.at)
			}
			continue
		}
		have, ok := f.stale[c.add.set][c.add.at]
		delete(f.stale[c.add.set], c.add.at)
		switch {
		case ok && have == c.add.data:
		case ok:
			left = append(left, change{&element{c.add.set, c.add.at, have}, c.add})
		default:
			left = append(left, change{add: c.add})
		}
	}
	for set, elements := range f.stale {
		for place := range elements {
			left = append(left, change{del: &element{set: set, at: place}})
		}
	}
	return left
}

// program applies changes in one transaction. Where the kernel refuses one, it
// is found by halving, so that all others are applied.
func (s *Sink) program(f *programmed, changes []change) error {
	if len(changes) == 0 {
		return nil
	}
	err := s.transact(f, changes)
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.EBUSY) {
		if err = s.transact(f, changes); err == nil {
			return nil
		}
	}
	if len(changes) == 1 {
		c := changes[0]
		// What is to go is gone, or what is to come is there: then it is done.
		if c.add == nil && errors.Is(err, unix.ENOENT) {
			return nil
		}
		if c.del != nil && c.add != nil && errors.Is(err, unix.ENOENT) {
			return s.transact(f, []change{{add: c.add}})
		}
		return err
	}
	half := len(changes) / 2
	return errors.Join(s.program(f, changes[:half]), s.program(f, changes[half:]))
}

func (s *Sink) transact(f *programmed, changes []change) error {
	var del, add []element
	for _, c := range changes {
		if c.del != nil {
			del = append(del, *c.del)
		}
		if c.add != nil {
			add = append(add, *c.add)
		}
	}
	bySet := func(a, b element) int { return strings.Compare(a.set, b.set) }
	slices.SortStableFunc(del, bySet)
	slices.SortStableFunc(add, bySet)
	t := &batch{family: f.proto}
	t.elements(unix.NFT_MSG_DELSETELEM, del)
	t.elements(unix.NFT_MSG_NEWSETELEM, add)
	return s.conn.commit(t)
}

// SetLocal says which addresses a server on this node itself answers at, such as
// that of the cluster's DNS: packets to and from them are not tracked, and so are
// not Services'. An empty list withdraws it.
func (s *Sink) SetLocal(servers []netip.AddrPort) error {
	var errs []error
	for _, f := range s.families {
		have := []element{}
		err := s.conn.elements(f.proto, "local", func(e element) { have = append(have, e) })
		var want []element
		for _, a := range servers {
			if a.Addr().Is6() == f.v6 {
				for _, p := range []servicetable.Protocol{servicetable.TCP, servicetable.UDP} {
					want = append(want, element{set: "local", at: at{key: frontKey(a.Addr(), uint8(p), a.Port())}})
				}
			}
		}
		var changes []change
		for _, e := range have {
			if !slices.Contains(want, e) {
				changes = append(changes, change{del: &e})
			}
		}
		for _, e := range want {
			if !slices.Contains(have, e) {
				changes = append(changes, change{add: &e})
			}
		}
		errs = append(errs, err, s.program(f, changes))
	}
	return errors.Join(errs...)
}

// Forget frees clients that are bound to backends which are gone.
func (s *Sink) Forget(gone []netip.AddrPort) error {
	var errs []error
	for _, f := range s.families {
		drop := map[string]bool{}
		for _, b := range gone {
			if b.Addr().Is6() == f.v6 {
				drop[backendData(b)] = true
			}
		}
		if len(drop) == 0 {
			continue
		}
		var changes []change
		err := s.conn.elements(f.proto, "aff", func(e element) {
			if drop[e.data] {
				changes = append(changes, change{del: &element{set: e.set, at: e.at}})
			}
		})
		errs = append(errs, err, s.program(f, changes))
	}
	return errors.Join(errs...)
}
