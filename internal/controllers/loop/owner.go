package loop

import (
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Expectations remember what a controller has done that its informer has not
// told yet, so that it does not do it twice. The zero value expects nothing.
type Expectations struct {
	mu   sync.Mutex
	keys map[Key]*expected
}

type expected struct {
	creations int
	deletions map[types.UID]bool
	since     time.Time
}

// forgotten is how long an event is waited for: it may have been lost.
const forgotten = 30 * time.Second

func (e *Expectations) of(key Key) *expected {
	if e.keys == nil {
		e.keys = map[Key]*expected{}
	}
	x := e.keys[key]
	if x == nil {
		x = &expected{deletions: map[types.UID]bool{}}
		e.keys[key] = x
	}
	return x
}

// ExpectCreations adds n creations.
func (e *Expectations) ExpectCreations(key Key, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.of(key)
	x.creations += n
	x.since = time.Now()
}

// ExpectDeletion adds the deletion of one object.
func (e *Expectations) ExpectDeletion(key Key, uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.of(key)
	x.deletions[uid] = true
	x.since = time.Now()
}

// Created tells that one creation was seen, or will never be.
func (e *Expectations) Created(key Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.of(key); x.creations > 0 {
		x.creations--
	}
}

// Deleted tells that a deletion was seen, or will never be.
func (e *Expectations) Deleted(key Key, uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.of(key).deletions, uid)
}

// Met says whether all that was expected has been seen.
func (e *Expectations) Met(key Key) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.of(key)
	if x.creations == 0 && len(x.deletions) == 0 {
		return true
	}
	if time.Since(x.since) > forgotten {
		delete(e.keys, key)
		return true
	}
	return false
}

// Forget drops what is expected of an object that is gone.
func (e *Expectations) Forget(key Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.keys, key)
}

// ControllerKey is the key of an object's controller if it is of that kind.
func ControllerKey(o metav1.Object, kind string) (Key, bool) {
	ref := metav1.GetControllerOf(o)
	if ref == nil || ref.Kind != kind {
		return Key{}, false
	}
	return Key{o.GetNamespace(), ref.Name}, true
}
