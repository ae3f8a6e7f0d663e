package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// fakeAPI lists by pages of one and watches as it is told.
type fakeAPI struct {
	names   []string
	version int
	lists   int
	watches chan *watch.FakeWatcher
	expired bool // the next continuation is
}

func (f *fakeAPI) page(_ context.Context, o metav1.ListOptions, set func(*corev1.Service)) (metav1.ListMeta, error) {
	if o.Continue != "" && f.expired {
		f.expired = false
		return metav1.ListMeta{}, apierrors.NewResourceExpired("too old")
	}
	var at int
	_, _ = fmt.Sscan(o.Continue, &at)
	if o.Continue == "" {
		f.lists++
	}
	end := len(f.names)
	if o.Limit > 0 {
		end = min(end, at+1)
	}
	for _, n := range f.names[at:end] {
		set(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: n, ResourceVersion: fmt.Sprint(f.version)}})
	}
	meta := metav1.ListMeta{ResourceVersion: fmt.Sprint(f.version)}
	if end < len(f.names) {
		meta.Continue = fmt.Sprint(end)
	}
	return meta, nil
}

// After 410 everything is listed again: what is still there is never taken away
// in between, and what is gone is.
func TestAListAfter410DropsOnlyWhatIsGone(t *testing.T) {
	api := &fakeAPI{names: []string{"a", "b", "c"}, version: 10, watches: make(chan *watch.FakeWatcher, 1), expired: true}
	have, gone := map[string]bool{}, []string{}
	synced := make(chan struct{}, 10)
	f := &feed[*corev1.Service]{
		kind: "Service", page: api.page,
		watch: func(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w := watch.NewFakeWithChanSize(10, false)
			api.watches <- w
			return w, nil
		},
		set:  func(s *corev1.Service) { have[s.Name] = true },
		gone: func(n types.NamespacedName, _ string) { delete(have, n.Name); gone = append(gone, n.Name) },
		known: func() (all []types.NamespacedName) {
			for n := range have {
				all = append(all, types.NamespacedName{Namespace: "ns", Name: n})
			}
			return all
		},
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	p := New(Config{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	done := make(chan error, 1)
	go func() { done <- f.run(ctx, p, func() { synced <- struct{}{} }) }()
	next := func() *watch.FakeWatcher {
		t.Helper()
		select {
		case w := <-api.watches:
			return w
		case <-ctx.Done():
			t.Fatal("it is not watched")
			return nil
		}
	}
	w := next()
	<-synced
	api.names, api.version = []string{"a", "c", "d"}, 20
	w.Error(&apierrors.NewResourceExpired("410 Gone").ErrStatus)
	w = next()
	<-synced
	w.Delete(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c", ResourceVersion: "21"}})
	// An old version again, so that what was told is over.
	api.names, api.version = []string{"a", "d"}, 30
	w.Error(&apierrors.NewResourceExpired("410 Gone").ErrStatus)
	next()
	<-synced
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if left := slices.Sorted(maps.Keys(have)); fmt.Sprint(left) != "[a d]" {
		t.Errorf("it has %v", left)
	}
	if fmt.Sprint(gone) != "[b c]" {
		t.Errorf("it dropped %v", gone)
	}
	if api.lists < 4 { // the first one began anew without pages
		t.Errorf("listed %d times", api.lists)
	}
}
