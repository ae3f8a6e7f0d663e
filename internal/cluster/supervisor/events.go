package supervisor

import (
	"context"
	"sync"

	"viaduct.dev/viaduct/internal/cluster/control"
)

// maxEvents bounds the memory of what happened on the way up.
const maxEvents = 1000

// events is what happened on the way up, for any number of followers.
type events struct {
	mu      sync.Mutex // guards what follows
	all     []control.Event
	ready   bool
	failure string
	changed chan struct{} // closed and replaced at each change
}

func newEvents() *events { return &events{changed: make(chan struct{})} }

// add tells one more event; one with an error is the last.
func (e *events) add(event control.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case event.Error != "":
		if e.failure == "" {
			e.failure = event.Error
		}
	case len(e.all) < maxEvents:
		e.all = append(e.all, event)
	}
	e.wake()
}

func (e *events) setReady(ready bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ready != ready {
		e.ready = ready
		e.wake()
	}
}

func (e *events) wake() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// follow sends every event until the box is ready or has failed.
func (e *events) follow(ctx context.Context, send func(control.Event) error) error {
	for next := 0; ; {
		e.mu.Lock()
		batch, ready, failure, changed := e.all[next:], e.ready, e.failure, e.changed
		e.mu.Unlock()
		next += len(batch)
		for _, event := range batch {
			if err := send(event); err != nil {
				return err
			}
		}
		switch {
		case failure != "":
			return send(control.Event{Error: failure})
		case ready:
			return send(control.Event{Ready: true})
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
