// Package garbage deletes what nobody owns any more: an object whose owners
// are all gone goes too, by the policy with which they were deleted
// (background, foreground, orphan).
//
// The one idea: a graph of owners is kept by watching the metadata of every
// kind; a deletion asks for the dependants, a new object asks whether its owner
// still is. What is deleted is checked against the API itself first.
package garbage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"viaduct.dev/viaduct/internal/controllers/loop"
)

// Config is what the collector needs.
type Config struct {
	Client   kubernetes.Interface
	Metadata metadata.Interface
	Log      *slog.Logger
}

// node is an object in the graph.
type node struct {
	resource  schema.GroupVersionResource
	kind      string
	namespace string
	name      string
	meta      *metav1.PartialObjectMetadata
}

type collector struct {
	Config
	loop *loop.Loop

	mu         sync.Mutex
	nodes      map[types.UID]*node
	dependants map[types.UID]map[types.UID]bool // by owner, who may be gone
	kinds      map[schema.GroupKind]schema.GroupVersionResource
}

// Run collects until ctx ends. The kinds are those that the server has at the
// start.
func Run(ctx context.Context, cfg Config) error {
	c := &collector{
		Config: cfg, nodes: map[types.UID]*node{}, dependants: map[types.UID]map[types.UID]bool{},
		kinds: map[schema.GroupKind]schema.GroupVersionResource{},
	}
	// A key's name is an object's UID: that is what owners are known by.
	c.loop = loop.New("garbage", cfg.Log, c.reconcile)
	resources, err := c.discover()
	if err != nil {
		return fmt.Errorf("garbage collector: %w", err)
	}
	factory := metadatainformer.NewSharedInformerFactory(cfg.Metadata, 0)
	var synced []cache.DoneChecker
	for r, kind := range resources {
		reg, err := factory.ForResource(r).Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { c.seen(r, kind, o.(*metav1.PartialObjectMetadata)) },
			UpdateFunc: func(_, o any) { c.seen(r, kind, o.(*metav1.PartialObjectMetadata)) },
			DeleteFunc: func(o any) {
				if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
					o = gone.Obj
				}
				if m, ok := o.(*metav1.PartialObjectMetadata); ok {
					c.gone(m)
				}
			},
		})
		if err != nil {
			return fmt.Errorf("garbage collector: %w", err)
		}
		synced = append(synced, reg.HasSyncedChecker())
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !cache.WaitFor(ctx, "", synced...) {
		return nil
	}
	c.loop.Run(ctx, 4)
	return nil
}

// uninteresting kinds neither own nor are owned, and change all the time.
var uninteresting = []string{"events", "leases"}

func (c *collector) discover() (map[schema.GroupVersionResource]string, error) {
	lists, err := c.Client.Discovery().ServerPreferredResources()
	if err != nil && len(lists) == 0 {
		return nil, fmt.Errorf("discover resources: %w", err)
	}
	all := map[schema.GroupVersionResource]string{}
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, r := range l.APIResources {
			if !slices.Contains(r.Verbs, "delete") || !slices.Contains(r.Verbs, "watch") || slices.Contains(uninteresting, r.Name) {
				continue
			}
			all[gv.WithResource(r.Name)] = r.Kind
			c.kinds[schema.GroupKind{Group: gv.Group, Kind: r.Kind}] = gv.WithResource(r.Name)
		}
	}
	return all, nil
}

func key(uid types.UID) loop.Key { return loop.Key{Name: string(uid)} }

// seen puts an object, as it is now, into the graph.
func (c *collector) seen(r schema.GroupVersionResource, kind string, m *metav1.PartialObjectMetadata) {
	c.mu.Lock()
	old := c.nodes[m.UID]
	c.nodes[m.UID] = &node{r, kind, m.Namespace, m.Name, m}
	if old != nil {
		for _, ref := range old.meta.OwnerReferences {
			delete(c.dependants[ref.UID], m.UID)
		}
	}
	for _, ref := range m.OwnerReferences {
		if c.dependants[ref.UID] == nil {
			c.dependants[ref.UID] = map[types.UID]bool{}
		}
		c.dependants[ref.UID][m.UID] = true
	}
	c.mu.Unlock()
	if len(m.OwnerReferences) > 0 || m.DeletionTimestamp != nil {
		c.loop.Add(key(m.UID))
	}
}

// gone asks for those that an object owned, and for those who waited for it.
func (c *collector) gone(m *metav1.PartialObjectMetadata) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.nodes, m.UID)
	for _, ref := range m.OwnerReferences {
		delete(c.dependants[ref.UID], m.UID)
		c.loop.Add(key(ref.UID))
	}
	for dependant := range c.dependants[m.UID] {
		c.loop.Add(key(dependant))
	}
	if len(c.dependants[m.UID]) == 0 {
		delete(c.dependants, m.UID)
	}
}

func (c *collector) reconcile(ctx context.Context, k loop.Key) error {
	c.mu.Lock()
	n := c.nodes[types.UID(k.Name)]
	c.mu.Unlock()
	if n == nil {
		return nil
	}
	if n.meta.DeletionTimestamp != nil {
		return c.finish(ctx, n)
	}
	if len(n.meta.OwnerReferences) == 0 {
		return nil
	}
	return c.collect(ctx, n)
}

// collect deletes an object when none of its owners is left.
func (c *collector) collect(ctx context.Context, n *node) error {
	var dangling, waiting, solid []metav1.OwnerReference
	for _, ref := range n.meta.OwnerReferences {
		owner, err := c.owner(ctx, n, ref)
		switch {
		case err != nil:
			return err
		case owner == nil:
			dangling = append(dangling, ref)
		case owner.DeletionTimestamp != nil && slices.Contains(owner.Finalizers, metav1.FinalizerDeleteDependents):
			waiting = append(waiting, ref)
		default:
			solid = append(solid, ref)
		}
	}
	if len(dangling) == 0 && len(waiting) == 0 {
		return nil
	}
	client := c.Metadata.Resource(n.resource).Namespace(n.namespace)
	if len(solid) > 0 {
		return c.dropOwners(ctx, n, append(dangling, waiting...))
	}
	policy := metav1.DeletePropagationBackground
	if len(waiting) > 0 && c.hasDependants(n.meta.UID) {
		policy = metav1.DeletePropagationForeground
	}
	err := client.Delete(ctx, n.name, metav1.DeleteOptions{
		PropagationPolicy: &policy,
		Preconditions:     &metav1.Preconditions{UID: &n.meta.UID, ResourceVersion: &n.meta.ResourceVersion},
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// owner reads an owner from the API itself, because the graph may be behind. It
// gives nil for one that is gone, or has been made anew under its name.
func (c *collector) owner(ctx context.Context, n *node, ref metav1.OwnerReference) (*metav1.PartialObjectMetadata, error) {
	c.mu.Lock()
	known := c.nodes[ref.UID]
	c.mu.Unlock()
	if known != nil && known.meta.DeletionTimestamp == nil {
		return known.meta, nil
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, err
	}
	r, ok := c.kinds[schema.GroupKind{Group: gv.Group, Kind: ref.Kind}]
	if !ok {
		// An owner of a kind that is not served here cannot be judged.
		return &metav1.PartialObjectMetadata{}, nil
	}
	var found *metav1.PartialObjectMetadata
	found, err = c.Metadata.Resource(r).Namespace(n.namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsBadRequest(err) {
		found, err = c.Metadata.Resource(r).Get(ctx, ref.Name, metav1.GetOptions{}) // a cluster's own
	}
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsBadRequest(err):
		return nil, nil
	case err != nil:
		return nil, err
	case found.UID != ref.UID:
		return nil, nil
	}
	return found, nil
}

func (c *collector) dropOwners(ctx context.Context, n *node, refs []metav1.OwnerReference) error {
	drop := ""
	for i, ref := range refs {
		if i > 0 {
			drop += ","
		}
		drop += fmt.Sprintf(`{"$patch":"delete","uid":%q}`, ref.UID)
	}
	patch := fmt.Sprintf(`{"metadata":{"uid":%q,"ownerReferences":[%s]}}`, n.meta.UID, drop)
	_, err := c.Metadata.Resource(n.resource).Namespace(n.namespace).Patch(ctx, n.name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (c *collector) hasDependants(uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.dependants[uid]) > 0
}

func (c *collector) dependantsOf(uid types.UID) []*node {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*node
	for d := range c.dependants[uid] {
		if n := c.nodes[d]; n != nil {
			all = append(all, n)
		}
	}
	return all
}

// finish does what the finalizers of an object that is being deleted ask for.
func (c *collector) finish(ctx context.Context, n *node) error {
	switch {
	case slices.Contains(n.meta.Finalizers, metav1.FinalizerOrphanDependents):
		var errs []error
		for _, d := range c.dependantsOf(n.meta.UID) {
			errs = append(errs, c.dropOwners(ctx, d, []metav1.OwnerReference{{UID: n.meta.UID}}))
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		return c.dropFinalizer(ctx, n, metav1.FinalizerOrphanDependents)
	case slices.Contains(n.meta.Finalizers, metav1.FinalizerDeleteDependents):
		blocking := false
		for _, d := range c.dependantsOf(n.meta.UID) {
			for _, ref := range d.meta.OwnerReferences {
				if ref.UID == n.meta.UID && ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion {
					blocking = true
				}
			}
			c.loop.Add(key(d.meta.UID))
		}
		if blocking {
			c.loop.AddAfter(key(n.meta.UID), time.Second)
			return nil
		}
		return c.dropFinalizer(ctx, n, metav1.FinalizerDeleteDependents)
	}
	return nil
}

func (c *collector) dropFinalizer(ctx context.Context, n *node, finalizer string) error {
	client := c.Metadata.Resource(n.resource).Namespace(n.namespace)
	now, err := client.Get(ctx, n.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if now.UID != n.meta.UID || !slices.Contains(now.Finalizers, finalizer) {
		return nil
	}
	patch := fmt.Sprintf(`{"metadata":{"resourceVersion":%q,"$deleteFromPrimitiveList/finalizers":[%q]}}`, now.ResourceVersion, finalizer)
	_, err = client.Patch(ctx, n.name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
