package nftables

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/servicetable"
)

// perTransaction bounds the elements of one transaction, but for that which makes
// a table with all its data.
const perTransaction = 20000

// Apply programs a Diff. The first one, and the first after a Reload, must be a
// whole Snapshot: it also removes what an earlier process has left and nobody
// wants any more.
//
// What the kernel refuses is left out and told by the error; all else is
// programmed.
func (s *Sink) Apply(d *servicetable.Diff) error {
	s.learn(d)
	var errs []error
	for _, f := range s.families {
		errs = append(errs, s.apply(f, d))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return s.watch()
}

func (s *Sink) apply(f *programmed, d *servicetable.Diff) error {
	if f.fresh {
		return s.make(f, d)
	}
	adopted := f.stale != nil
	changes := s.changes(f, d)
	if adopted {
		changes = f.reconcile(append(additions(s.node.elements(f)), changes...))
		f.stale = nil
	}
	err := s.program(f, changes)
	if adopted {
		return errors.Join(err, s.forget(f, f.notBound(d, s)))
	}
	return errors.Join(err, s.forgetUnkept(f, d))
}

func (s *Sink) changes(f *programmed, d *servicetable.Diff) []change {
	var all []change
	s.eachChange(d, f.v6, func(c change) { all = append(all, c) })
	return all
}

// make makes a table with its data in one transaction: there is no moment at
// which it is not whole. Where the kernel refuses that, the rules come first.
func (s *Sink) make(f *programmed, d *servicetable.Diff) error {
	if len(f.bound) > 0 {
		f.bound = slices.DeleteFunc(f.bound, f.notBound(d, s))
	}
	before := append(additions(s.node.elements(f)), additions(f.bound)...)
	err := s.create(f, func(t *batch) (n int) {
		for i := range before {
			t.change(&before[i])
		}
		s.eachChange(d, f.v6, func(c change) { t.change(&c); n++ })
		return n
	})
	if err != nil {
		first := err
		if err = s.create(f, func(*batch) int { return 0 }); err != nil {
			return fmt.Errorf("make table %s: %w", TableName, err)
		}
		s.cfg.Log.Warn("part of a new table was refused: it is filled bit by bit", "table", TableName, "err", first)
		err = s.program(f, append(before, s.changes(f, d)...))
	}
	f.bound, f.stale = nil, nil
	return err
}

// create makes the table, in place of another of its name, with what fill adds.
func (s *Sink) create(f *programmed, fill func(*batch) int) error {
	for {
		t := newBatch(f.proto)
		if f.replace {
			t.deleteTable()
		}
		t.wholeTable(f.family, s.cfg, s.flags)
		err := s.commit(t, fill(t)+perTransaction)
		var refused *ElementError
		if s.flags != 0 && errors.As(err, &refused) && refused.What == newTable && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)) {
			s.flags = 0 // before Linux 6.9
			continue
		}
		if f.replace && errors.Is(err, unix.ENOENT) {
			f.replace = false // somebody else has deleted it
			continue
		}
		if err == nil {
			f.fresh, f.replace = false, false
		}
		return err
	}
}

func additions(all []element) []change {
	changes := make([]change, len(all))
	for i := range all {
		changes[i] = change{element: all[i], add: true}
	}
	return changes
}

// reconcile leaves out what is there already, and adds the removal of the rest.
func (f *programmed) reconcile(changes []change) []change {
	var left []change
	for _, c := range changes {
		have, ok := f.stale[c.set][c.at]
		delete(f.stale[c.set], c.at)
		switch {
		case ok && c.add && have == c.data:
		case ok || c.add:
			c.del = ok
			left = append(left, c)
		}
	}
	for set, elements := range f.stale {
		for place := range elements {
			left = append(left, change{element: element{set: set, at: place}, del: true})
		}
	}
	return left
}

// program applies changes, in one transaction unless there are very many.
func (s *Sink) program(f *programmed, changes []change) error {
	order(changes)
	var errs []error
	for part := range slices.Chunk(changes, perTransaction) {
		errs = append(errs, s.programPart(f, part))
	}
	return errors.Join(errs...)
}

// programPart applies changes in one transaction. Where the kernel refuses one,
// it is found by halving, so that all others are applied.
func (s *Sink) programPart(f *programmed, changes []change) error {
	err := s.transact(f, changes)
	for range 2 {
		if !passing(err) {
			break
		}
		err = s.transact(f, changes)
	}
	if err == nil {
		return nil
	}
	if len(changes) > 1 {
		half := len(changes) / 2
		return errors.Join(s.programPart(f, changes[:half]), s.programPart(f, changes[half:]))
	}
	c := changes[0]
	if errors.Is(err, unix.ENOENT) && c.del {
		// What is to go is gone.
		if c.del = false; !c.add {
			return nil
		}
		return s.transact(f, []change{c})
	}
	return err
}

// passing says whether the same transaction may well succeed when tried again.
func passing(err error) bool {
	for _, e := range []unix.Errno{unix.EAGAIN, unix.EINTR, unix.EBUSY, unix.ENOBUFS, unix.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (s *Sink) transact(f *programmed, changes []change) error {
	t := newBatch(f.proto)
	for i := range changes {
		if changes[i].del {
			t.put(unix.NFT_MSG_DELSETELEM, &changes[i].element)
		}
	}
	for i := range changes {
		if changes[i].add {
			t.put(unix.NFT_MSG_NEWSETELEM, &changes[i].element)
		}
	}
	return s.commit(t, len(changes))
}

// change adds a change of an element by itself.
func (t *batch) change(c *change) {
	if c.del {
		t.put(unix.NFT_MSG_DELSETELEM, &c.element)
	}
	if c.add {
		t.put(unix.NFT_MSG_NEWSETELEM, &c.element)
	}
}

// commit commits a batch of so many elements.
func (s *Sink) commit(t *batch, elements int) error {
	if s.monitor != nil && elements > mostNews {
		return s.monitor.deaf(s.conn, func() error { return s.conn.commit(t) })
	}
	return s.conn.commit(t)
}
