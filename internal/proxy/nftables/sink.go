package nftables

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/servicetable"
)

// Config shapes the rules. It is constant for the life of a Sink.
type Config struct {
	// Local tells how packets of Pods are known.
	Local LocalTraffic
	// MasqueradeAll hides every caller of a cluster IP by the node's address.
	MasqueradeAll bool
	// RandomFully draws the source ports of hidden callers at random.
	RandomFully bool
	Log         *slog.Logger

	// plain makes tables as before Linux 6.9, without an owner.
	plain bool
}

// LocalTraffic is how packets of Pods are known (kube-proxy's
// --detect-local-mode): by the interface that they come in by or, where both are
// empty, by Node.LocalCIDRs. Interfaces need Linux 5.6.
type LocalTraffic struct {
	Bridge          string // its name
	InterfacePrefix string // how the names of all begin
}

// Sink programs one network namespace: that of the thread which opens it. It is
// not safe for concurrent use, but for Lost.
type Sink struct {
	cfg      Config
	node     Node
	conn     *conn
	flags    uint32 // of tables
	families []*programmed
	monitor  *monitor // nil while the tables are owned
}

// programmed is a family's table.
type programmed struct {
	family
	v6 bool
	// fresh says that the table must be made, with all its rules; replace that
	// another one of its name is there; bound are the clients that it binds.
	fresh, replace bool
	bound          []element
	// stale is what an earlier process has left and nobody has asked for yet, by
	// set and key; nil once the first Diff has been applied.
	stale map[string]map[at]string
}

// perTransaction bounds the elements of one transaction.
const perTransaction = 20000

// Open finds the tables of an earlier process, whose contents Prior tells: hand
// it to the servicetable's Adopt, and its Snapshot to Apply. What is not there or
// has another version's rules is made by the first Apply, in one transaction with
// its data: until then the old one serves.
func Open(cfg Config, node Node) (*Sink, servicetable.Prior, error) {
	if err := cfg.Local.validate(); err != nil {
		return nil, servicetable.Prior{}, err
	}
	c, err := dial()
	if err != nil {
		return nil, servicetable.Prior{}, err
	}
	s := &Sink{cfg: cfg, node: node, conn: c, flags: tableOwner | tablePersist, families: []*programmed{{family: ipv4}, {family: ipv6, v6: true}}}
	if cfg.plain {
		s.flags = 0
	}
	prior := servicetable.Prior{Frontends: map[servicetable.Frontend]servicetable.PriorTarget{}, Slots: map[servicetable.PoolID][]netip.AddrPort{}}
	for _, f := range s.families {
		if err := s.find(f, &prior); err != nil {
			s.Close()
			return nil, prior, err
		}
	}
	return s, prior, nil
}

func (l LocalTraffic) validate() error {
	for _, name := range []string{l.Bridge, l.InterfacePrefix} {
		if len(name) >= unix.IFNAMSIZ {
			return fmt.Errorf("interface name %q: longer than %d characters", name, unix.IFNAMSIZ-1)
		}
	}
	return nil
}

// Close gives the sockets back. The tables stay.
func (s *Sink) Close() {
	if s.monitor != nil {
		s.monitor.close()
	}
	s.conn.close()
}

// Apply programs a Diff. The first one, and the first after a Reload, must be a
// whole Snapshot: it also removes what an earlier process has left and nobody
// wants any more.
func (s *Sink) Apply(d *servicetable.Diff) error {
	var errs []error
	for _, f := range s.families {
		changes := changesOf(d, f.v6)
		switch {
		case f.fresh:
			errs = append(errs, s.make(f, append(additions(s.node.elements(f)), changes...)))
			continue
		case f.stale != nil:
			changes = f.reconcile(append(additions(s.node.elements(f)), changes...))
		}
		for start := 0; start < len(changes); start += perTransaction {
			errs = append(errs, s.program(f, changes[start:min(start+perTransaction, len(changes))]))
		}
		f.stale = nil
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return s.watch()
}

// make makes a table with its data in one transaction: there is no moment at
// which it is not whole. Where the kernel refuses that, the rules come first.
func (s *Sink) make(f *programmed, changes []change) error {
	changes = append(changes, additions(f.bound)...)
	err := s.transact(f, changes)
	if err != nil && f.fresh {
		first := err
		if err = s.transact(f, nil); err != nil {
			return fmt.Errorf("make table %s: %w", TableName, err)
		}
		s.cfg.Log.Debug("a table was not made whole", "err", first)
		err = s.program(f, changes)
	}
	f.bound, f.stale = nil, nil
	return err
}

func additions(all []element) []change {
	changes := make([]change, len(all))
	for i := range all {
		changes[i].add = &all[i]
	}
	return changes
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
			left = append(left, change{&element{set: c.add.set, at: c.add.at, data: have}, c.add})
		default:
			left = append(left, change{add: c.add})
		}
	}
	for set, elements := range f.stale {
		if set == "local" { // the server says anew where it listens
			continue
		}
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
	for {
		t := &batch{family: f.proto}
		if f.replace {
			t.deleteTable()
		}
		if f.fresh {
			t.wholeTable(f.family, s.cfg, s.flags)
		}
		t.elements(unix.NFT_MSG_DELSETELEM, del)
		t.elements(unix.NFT_MSG_NEWSETELEM, add)
		err := s.conn.commit(t)
		var refused *ElementError
		if f.fresh && s.flags != 0 && errors.As(err, &refused) && refused.What == newTable && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)) {
			s.flags = 0 // before Linux 6.9
			continue
		}
		if err == nil {
			f.fresh, f.replace = false, false
		}
		return err
	}
}
