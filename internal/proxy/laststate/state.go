package laststate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"viaduct.dev/viaduct/internal/servicetable"
)

const (
	// Writes begin no sooner after each other, and leave the disk idle for nine
	// tenths of the time.
	interval = time.Second
	rest     = 10
	// retryMost bounds how long a disk that refuses is left alone.
	retryMost = time.Minute
	// lockTimeout is how long an earlier process may take to end.
	lockTimeout = 2 * time.Second
)

// Aside is what the name of a file that cannot be used gets.
const Aside = ".aside"

// State is the table in a file.
type State struct {
	path string
	log  *slog.Logger
	db   *bbolt.DB // Load's and Run's

	mu      sync.Mutex // guards pending
	pending *pending
	wake    chan struct{}
}

// Open opens the file or begins one. A file that cannot be used is set aside,
// with a warning. An error says that there can be none, or that another process
// has it.
func Open(path string, log *slog.Logger) (*State, error) {
	s := &State{path: path, log: log, pending: newPending(), wake: make(chan struct{}, 1)}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("keep the service table: %w", err)
	}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("keep the service table: %w", err)
	}
	return s, nil
}

func (s *State) open() error {
	err := guarded(func() (err error) {
		if s.db, err = openFile(s.path); err != nil {
			return err
		}
		return begin(s.db)
	})
	if err == nil || errors.Is(err, errLocked) || errors.Is(err, os.ErrPermission) {
		return err
	}
	return s.renew(err)
}

var errLocked = errors.New("another process has the file")

func openFile(path string) (*bbolt.DB, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType, NoStatistics: true,
	})
	if errors.Is(err, bbolt.ErrTimeout) {
		return nil, fmt.Errorf("%s: %w", path, errLocked)
	}
	if err != nil {
		return nil, err
	}
	db.AllocSize = 1 << 20 // how much the file grows by; its own is 16 MiB
	return db, nil
}

// renew sets the file aside because of why, and begins another.
func (s *State) renew(why error) error {
	if errors.Is(why, errFault) {
		s.db = nil // a lock of its own may be held: let it be
	}
	s.close()
	s.log.Warn("the last service table cannot be used; it is set aside", "path", s.path, "aside", s.path+Aside, "err", why)
	if err := os.Rename(s.path, s.path+Aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var err error
	if s.db, err = openFile(s.path); err != nil {
		return err
	}
	return begin(s.db)
}

// begin makes the file ours; one that is already is not written.
func begin(db *bbolt.DB) error {
	if err := db.Update(prepare); !errors.Is(err, errNothing) {
		return err
	}
	return nil
}

func (s *State) close() {
	if s.db == nil {
		return
	}
	if err := guarded(s.db.Close); err != nil {
		s.log.Warn("the file of the service table was not closed", "path", s.path, "err", err)
	}
	s.db = nil
}

// guarded makes an error of what a damaged file does to a program that has it
// mapped into memory.
func guarded(fn func() error) (err error) {
	before := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(before)
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %w: %v", errDamaged, errFault, r)
		}
	}()
	return fn()
}

// Load is the table that was kept last, as a change from nothing; empty if there
// is none. It is to be called before Run.
func (s *State) Load() (servicetable.Diff, error) {
	var d servicetable.Diff
	err := guarded(func() error { return s.db.View(func(tx *bbolt.Tx) (err error) { d, err = load(tx); return err }) })
	if err != nil {
		if err := s.renew(err); err != nil {
			return servicetable.Diff{}, fmt.Errorf("keep the service table: %w", err)
		}
		return servicetable.Diff{}, nil
	}
	return d, nil
}

// Replace says that the table is d now, a Snapshot. What the file has already
// is not written. It copies what it needs.
func (s *State) Replace(d servicetable.Diff) {
	w := newWhole(&d)
	s.mu.Lock()
	s.pending = newPending()
	s.pending.whole, s.pending.revision, s.pending.some = w, d.Revision, true
	s.mu.Unlock()
	s.poke()
}

// Add says that the table has changed by d. It copies what it needs. A change of
// a table that was never told as a whole is not kept.
func (s *State) Add(d servicetable.Diff) {
	s.mu.Lock()
	s.pending.add(&d)
	s.mu.Unlock()
	s.poke()
}

func (s *State) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends, and what is left then. It closes the file.
func (s *State) Run(ctx context.Context) error {
	defer s.close()
	wait := interval
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			if err := s.write(); err != nil {
				return fmt.Errorf("keep the service table: %w", err)
			}
			return nil
		}
		start := time.Now()
		if err := s.write(); err != nil {
			wait = min(2*wait, retryMost)
			s.log.Error("the service table was not written; it is tried again", "path", s.path, "after", wait, "err", err)
			s.poke()
		} else {
			wait = max(interval, rest*time.Since(start))
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// write brings what is pending into the file.
func (s *State) write() error {
	s.mu.Lock()
	p := s.pending
	s.pending = newPending()
	s.mu.Unlock()
	if !p.some {
		return nil
	}
	err := s.commit(p)
	if err != nil {
		s.mu.Lock()
		s.pending = p.before(s.pending)
		s.mu.Unlock()
	}
	return err
}

func (s *State) commit(p *pending) error {
	if s.db == nil {
		if err := s.open(); err != nil {
			return err
		}
	}
	err := guarded(func() error { return s.db.Update(p.store) })
	switch {
	case errors.Is(err, errNothing):
		return nil
	case !errors.Is(err, errDamaged):
		return err
	}
	if err := s.renew(err); err != nil {
		return err
	}
	if p.whole == nil {
		s.log.Warn("the service table is not kept until all of it is told again", "path", s.path)
		return nil
	}
	return s.db.Update(p.store)
}
