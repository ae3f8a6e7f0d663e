// Package loop is the one shape that all controllers have: a queue of keys and
// workers that reconcile one key at a time.
//
// The one idea: an event only says which object to look at again. What to do is
// computed from what is there now, so that events may be lost, doubled or late.
//
//	l := loop.New("replicaset", log, func(ctx context.Context, key loop.Key) error { ... })
//	informer.AddEventHandler(l.Handler())
//	return l.Run(ctx, 4)
package loop

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// Key names an object; Namespace is empty for those of the cluster.
type Key struct{ Namespace, Name string }

// String is namespace/name.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// KeyOf is the key of an object.
func KeyOf(o metav1.Object) Key { return Key{o.GetNamespace(), o.GetName()} }

// Loop reconciles keys.
type Loop struct {
	name      string
	log       *slog.Logger
	reconcile func(context.Context, Key) error
	queue     workqueue.TypedRateLimitingInterface[Key]
}

// The pause before a key that failed is tried again doubles from the first to
// the last.
const (
	firstRetry = 5 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// New makes a loop. Reconcile may be called for several keys at once, never for
// one key twice at once. When it returns an error the key is tried again later.
func New(name string, log *slog.Logger, reconcile func(context.Context, Key) error) *Loop {
	return &Loop{
		name: name, log: log.With("controller", name), reconcile: reconcile,
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[Key](firstRetry, lastRetry)),
	}
}

// Add asks for a key to be looked at.
func (l *Loop) Add(key Key) { l.queue.Add(key) }

// AddAfter asks for it later.
func (l *Loop) AddAfter(key Key, d time.Duration) { l.queue.AddAfter(key, d) }

// Handler asks for each object that an informer tells of.
func (l *Loop) Handler() cache.ResourceEventHandler {
	return Each(func(o metav1.Object) { l.Add(KeyOf(o)) })
}

// Each calls fn for every object that an informer tells of, the older and the
// newer one of a change.
func Each(fn func(metav1.Object)) cache.ResourceEventHandler {
	tell := func(o any) {
		if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = gone.Obj
		}
		if m, ok := o.(metav1.Object); ok {
			fn(m)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    tell,
		UpdateFunc: func(old, o any) { tell(old); tell(o) },
		DeleteFunc: tell,
	}
}

// Run works with n workers until ctx ends, and waits for them.
func (l *Loop) Run(ctx context.Context, n int) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for l.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	l.queue.ShutDown()
	wg.Wait()
}

func (l *Loop) next(ctx context.Context) bool {
	key, shutdown := l.queue.Get()
	if shutdown {
		return false
	}
	defer l.queue.Done(key)
	err := l.guarded(ctx, key)
	if err == nil {
		l.queue.Forget(key)
		return true
	}
	if ctx.Err() != nil {
		return true
	}
	// Somebody else was faster: the next look will see it.
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		l.log.Debug("try again", "key", key.String(), "err", err)
	} else {
		l.log.Warn("reconcile failed", "key", key.String(), "err", err)
	}
	l.queue.AddRateLimited(key)
	return true
}

// guarded keeps one object that a controller stumbles over from taking the whole
// process down: the panic is told, and the key tried again, later and later.
func (l *Loop) guarded(ctx context.Context, key Key) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return l.reconcile(ctx, key)
}
