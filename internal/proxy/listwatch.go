package proxy

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"viaduct.dev/viaduct/internal/servicetable"
)

// object is what lists and watches give.
type object interface{ metav1.Object }

// feed lists and watches one kind of object, and remembers none of them.
type feed[T object] struct {
	kind string
	// selector keeps away what is nobody's business here.
	selector metav1.ListOptions
	// page lists some: it calls set for each.
	page  func(ctx context.Context, o metav1.ListOptions, set func(T)) (metav1.ListMeta, error)
	watch func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
	set   func(T)
	gone  func(name types.NamespacedName, resourceVersion string)
	// known are those that were set and are not gone: what a new list lacks of
	// them is gone.
	known func() []types.NamespacedName
	// optional kinds may be refused or not be there.
	optional bool
}

const (
	// perPage bounds what is decoded at once.
	perPage = 1000
	// firstPause and longestPause are between tries to list.
	firstPause, longestPause = 100 * time.Millisecond, 5 * time.Second
)

// run follows until ctx ends. synced is called after the first complete list.
func (f *feed[T]) run(ctx context.Context, p *Proxy, synced func()) error {
	var failed string
	pause := firstPause
	for first := true; ctx.Err() == nil; {
		version, err := f.list(ctx, first)
		if err == nil {
			if failed != "" {
				p.cfg.Log.Info("the API is listed again", "kind", f.kind)
			}
			synced()
			first, failed, pause = false, "", firstPause
			err = f.follow(ctx, version)
		}
		if ctx.Err() != nil {
			return nil
		}
		if f.optional && (apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err)) {
			synced()
			pause = longestPause * 12
		}
		if text := err.Error(); text != failed {
			p.cfg.Log.Warn("the API is not followed; what is programmed goes on, and it is tried again", "kind", f.kind, "err", err)
			failed = text
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
			pause = min(2*pause, max(pause, longestPause))
		case <-ctx.Done():
		}
	}
	return nil
}

// list enters everything that there is, and takes away what there is no more.
// It returns the version to watch from.
func (f *feed[T]) list(ctx context.Context, first bool) (string, error) {
	seen := map[types.NamespacedName]struct{}{}
	o := f.selector
	o.Limit = perPage
	for {
		meta, err := f.page(ctx, o, func(t T) {
			f.set(t)
			if !first {
				seen[nameOf(t)] = struct{}{}
			}
		})
		switch {
		case apierrors.IsResourceExpired(err) && o.Continue != "":
			// The pages lasted too long: all at once, then.
			o.Continue, o.Limit = "", 0
			continue
		case apierrors.IsBadRequest(err) && o.FieldSelector != "" && f.kind == "Service":
			// An old API server cannot select by it; the table can.
			f.selector.FieldSelector, o.FieldSelector = "", ""
			continue
		case err != nil:
			return "", err
		}
		if o.Continue = meta.Continue; o.Continue != "" {
			continue
		}
		if !first {
			for _, name := range f.known() {
				if _, ok := seen[name]; !ok {
					f.gone(name, meta.ResourceVersion)
				}
			}
		}
		return meta.ResourceVersion, nil
	}
}

// follow watches from a version until that is not to be had any more.
func (f *feed[T]) follow(ctx context.Context, version string) error {
	w, err := watchtools.NewRetryWatcherWithContext(ctx, version, &cache.ListWatch{WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		o.LabelSelector, o.FieldSelector = f.selector.LabelSelector, f.selector.FieldSelector
		return f.watch(ctx, o)
	}})
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				return fmt.Errorf("the watch of %s ended", f.kind)
			}
			switch t, is := e.Object.(any).(T); {
			case e.Type == watch.Error:
				return apierrors.FromObject(e.Object)
			case !is, e.Type == watch.Bookmark:
			case e.Type == watch.Deleted:
				f.gone(nameOf(t), t.GetResourceVersion())
			default:
				f.set(t)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// each calls set for every element of a page.
func each[T any](items []T, set func(*T)) {
	for i := range items {
		set(&items[i])
	}
}

// followAPI is fed by lists and watches of its own, which keep no copies. synced
// is called when all that was there is known.
func (p *Proxy) followAPI(ctx context.Context, all *errgroup.Group, synced func()) {
	client := p.cfg.Client
	services := &feed[*corev1.Service]{
		kind: "Service",
		selector: metav1.ListOptions{
			LabelSelector: "!" + servicetable.LabelProxyName,
			FieldSelector: fields.OneTermNotEqualSelector("spec.clusterIP", corev1.ClusterIPNone).String(),
		},
		page: func(ctx context.Context, o metav1.ListOptions, set func(*corev1.Service)) (metav1.ListMeta, error) {
			list, err := client.CoreV1().Services("").List(ctx, o)
			if err != nil {
				return metav1.ListMeta{}, err
			}
			each(list.Items, set)
			return list.ListMeta, nil
		},
		watch: client.CoreV1().Services("").Watch,
		set:   p.SetService, gone: p.DeleteService,
		known: func() []types.NamespacedName { return p.known((*servicetable.Table).Services) },
	}
	endpoints := &feed[*discoveryv1.EndpointSlice]{
		kind:     "EndpointSlice",
		selector: metav1.ListOptions{LabelSelector: "!" + corev1.IsHeadlessService},
		page: func(ctx context.Context, o metav1.ListOptions, set func(*discoveryv1.EndpointSlice)) (metav1.ListMeta, error) {
			list, err := client.DiscoveryV1().EndpointSlices("").List(ctx, o)
			if err != nil {
				return metav1.ListMeta{}, err
			}
			each(list.Items, set)
			return list.ListMeta, nil
		},
		watch: client.DiscoveryV1().EndpointSlices("").Watch,
		set:   p.SetSlice, gone: p.DeleteSlice,
		known: func() []types.NamespacedName { return p.known((*servicetable.Table).Slices) },
	}
	nodes := &feed[*corev1.Node]{
		kind: "Node", optional: true,
		selector: metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", p.cfg.NodeName).String()},
		page: func(ctx context.Context, o metav1.ListOptions, set func(*corev1.Node)) (metav1.ListMeta, error) {
			list, err := client.CoreV1().Nodes().List(ctx, o)
			if err != nil {
				return metav1.ListMeta{}, err
			}
			each(list.Items, set)
			return list.ListMeta, nil
		},
		watch: client.CoreV1().Nodes().Watch,
		set:   p.SetNode, gone: func(name types.NamespacedName, _ string) { p.DeleteNode(name.Name) },
		known: func() []types.NamespacedName { return []types.NamespacedName{{Name: p.cfg.NodeName}} },
	}
	ranges := &feed[*networkingv1.ServiceCIDR]{
		kind: "ServiceCIDR", optional: true,
		page: func(ctx context.Context, o metav1.ListOptions, set func(*networkingv1.ServiceCIDR)) (metav1.ListMeta, error) {
			list, err := client.NetworkingV1().ServiceCIDRs().List(ctx, o)
			if err != nil {
				return metav1.ListMeta{}, err
			}
			each(list.Items, set)
			return list.ListMeta, nil
		},
		watch: client.NetworkingV1().ServiceCIDRs().Watch,
		set:   p.SetServiceCIDR, gone: func(name types.NamespacedName, _ string) { p.DeleteServiceCIDR(name.Name) },
		known: p.knownServiceCIDRs,
	}
	var first sync.WaitGroup
	start := func(run func(context.Context, *Proxy, func()) error) {
		first.Add(1)
		done := sync.OnceFunc(first.Done)
		all.Go(func() error {
			defer done()
			return run(ctx, p, done)
		})
	}
	start(services.run)
	start(endpoints.run)
	start(nodes.run)
	if len(p.cfg.ServiceCIDRs) == 0 {
		start(ranges.run)
	}
	all.Go(func() error {
		if first.Wait(); ctx.Err() == nil {
			synced()
		}
		return nil
	})
}

// known are the table's objects of one kind.
func (p *Proxy) known(of func(*servicetable.Table) iter.Seq[types.NamespacedName]) []types.NamespacedName {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(of(p.table))
}

func (p *Proxy) knownServiceCIDRs() []types.NamespacedName {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []types.NamespacedName
	for name := range p.self.serviceCIDRs {
		all = append(all, types.NamespacedName{Name: name})
	}
	return all
}
