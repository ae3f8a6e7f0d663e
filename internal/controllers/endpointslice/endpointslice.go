// Package endpointslice keeps the EndpointSlices of Services that have a
// selector: which addresses and ports their Pods have, and which are ready.
//
// Which slices to write is worked out by k8s.io/endpointslice; this package
// says when. Slices that somebody else has made are left alone.
package endpointslice

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	endpointslicelib "k8s.io/endpointslice"
	"k8s.io/endpointslice/metrics"
	"k8s.io/endpointslice/topologycache"
	endpointsliceutil "k8s.io/endpointslice/util"
	"k8s.io/klog/v2"

	"viaduct.dev/viaduct/internal/controllers/loop"
)

// Manager is the value of the label endpointslice.kubernetes.io/managed-by: the
// upstream controller's, in whose place this one stands.
const Manager = "endpointslice-controller.k8s.io"

// maxPerSlice is upstream's default for --max-endpoints-per-slice.
const maxPerSlice = 100

// Config is what the controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  record.EventRecorder
	Log       *slog.Logger
}

type controller struct {
	services   corelisters.ServiceLister
	pods       corelisters.PodLister
	slices     discoverylisters.EndpointSliceLister
	nodes      corelisters.NodeLister
	reconciler *endpointslicelib.Reconciler
	tracker    *endpointsliceutil.EndpointSliceTracker
	topology   *topologycache.TopologyCache
	triggers   *endpointsliceutil.TriggerTimeTracker
	loop       *loop.Loop

	mu        sync.Mutex
	selectors map[string]map[string]labels.Selector // of Services, by namespace and name
}

// Run keeps slices until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	core := cfg.Informers.Core().V1()
	c := &controller{
		services: core.Services().Lister(), pods: core.Pods().Lister(), nodes: core.Nodes().Lister(),
		slices:    cfg.Informers.Discovery().V1().EndpointSlices().Lister(),
		tracker:   endpointsliceutil.NewEndpointSliceTracker(),
		topology:  topologycache.NewTopologyCache(),
		triggers:  endpointsliceutil.NewTriggerTimeTracker(),
		selectors: map[string]map[string]labels.Selector{},
	}
	metrics.RegisterMetrics()
	c.loop = loop.New("endpointslice", cfg.Log, c.reconcile)
	c.reconciler = endpointslicelib.NewReconciler(cfg.Client, c.nodes, maxPerSlice, c.tracker, c.topology, cfg.Recorder, Manager,
		endpointslicelib.WithPreferSameTrafficDistributionEnabled(true))

	handlers := []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{core.Services().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { c.serviceChanged(o.(*corev1.Service)) },
			UpdateFunc: func(_, o any) { c.serviceChanged(o.(*corev1.Service)) },
			DeleteFunc: func(o any) { c.serviceGone(o) },
		}},
		{core.Pods().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { c.podChanged(nil, o.(*corev1.Pod)) },
			UpdateFunc: func(old, o any) { c.podChanged(old.(*corev1.Pod), o.(*corev1.Pod)) },
			DeleteFunc: func(o any) {
				if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
					o = gone.Obj
				}
				if p, ok := o.(*corev1.Pod); ok {
					c.podChanged(p, nil)
				}
			},
		}},
		{cfg.Informers.Discovery().V1().EndpointSlices().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { c.sliceChanged(o.(*discoveryv1.EndpointSlice)) },
			UpdateFunc: func(old, o any) { c.sliceUpdated(old.(*discoveryv1.EndpointSlice), o.(*discoveryv1.EndpointSlice)) },
			DeleteFunc: c.sliceGone,
		}},
		{core.Nodes().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { c.nodesChanged() },
			UpdateFunc: func(old, o any) { c.nodeUpdated(old.(*corev1.Node), o.(*corev1.Node)) },
			DeleteFunc: func(any) { c.nodesChanged() },
		}},
	}
	var synced []cache.DoneChecker
	for _, h := range handlers {
		reg, err := h.informer.AddEventHandler(h.handler)
		if err != nil {
			return fmt.Errorf("endpointslice controller: %w", err)
		}
		synced = append(synced, reg.HasSyncedChecker())
	}
	cfg.Informers.Start(ctx.Done())
	if !cache.WaitFor(ctx, "", synced...) {
		return nil
	}
	c.loop.Run(ctx, 2)
	return nil
}

func (c *controller) serviceChanged(s *corev1.Service) {
	c.mu.Lock()
	byName := c.selectors[s.Namespace]
	if byName == nil {
		byName = map[string]labels.Selector{}
		c.selectors[s.Namespace] = byName
	}
	if s.Spec.Selector == nil || s.Spec.Type == corev1.ServiceTypeExternalName {
		delete(byName, s.Name)
	} else {
		byName[s.Name] = labels.SelectorFromSet(s.Spec.Selector)
	}
	c.mu.Unlock()
	c.loop.Add(loop.KeyOf(s))
}

func (c *controller) serviceGone(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	s, ok := o.(*corev1.Service)
	if !ok {
		return
	}
	c.mu.Lock()
	delete(c.selectors[s.Namespace], s.Name)
	c.mu.Unlock()
	c.loop.Add(loop.KeyOf(s))
}

// podChanged asks for the Services that select a Pod as it was or as it is,
// unless nothing has changed that an endpoint tells.
func (c *controller) podChanged(old, p *corev1.Pod) {
	key := endpointsliceutil.GetPodUpdateProjectionKey(orNil(old), orNil(p))
	if key == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, selector := range c.selectors[key.Namespace] {
		if selector.Matches(key.Labels) || key.OldLabels != nil && selector.Matches(key.OldLabels) {
			c.loop.Add(loop.Key{Namespace: key.Namespace, Name: name})
		}
	}
}

// orNil keeps a nil Pod from becoming an interface that is not nil.
func orNil(p *corev1.Pod) any {
	if p == nil {
		return nil
	}
	return p
}

// sliceChanged asks for the Service of a slice of ours that somebody else has
// changed.
func (c *controller) sliceChanged(s *discoveryv1.EndpointSlice) {
	if c.reconciler.ManagedByController(s) && c.tracker.ShouldSync(s) {
		c.addServiceOf(s)
	}
}

func (c *controller) sliceUpdated(old, s *discoveryv1.EndpointSlice) {
	if was, is := old.Labels[discoveryv1.LabelServiceName], s.Labels[discoveryv1.LabelServiceName]; was != is {
		c.addServiceOf(old)
		c.addServiceOf(s)
		return
	}
	if c.reconciler.ManagedByChanged(old, s) {
		c.addServiceOf(s)
		return
	}
	c.sliceChanged(s)
}

// sliceGone asks for the Service of a slice that somebody else has deleted.
func (c *controller) sliceGone(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	s, ok := o.(*discoveryv1.EndpointSlice)
	if ok && c.reconciler.ManagedByController(s) && c.tracker.Has(s) && !c.tracker.HandleDeletion(s) {
		c.addServiceOf(s)
	}
}

func (c *controller) addServiceOf(s *discoveryv1.EndpointSlice) {
	if name := s.Labels[discoveryv1.LabelServiceName]; name != "" {
		c.loop.Add(loop.Key{Namespace: s.Namespace, Name: name})
	}
}

func (c *controller) nodeUpdated(old, n *corev1.Node) {
	ready := func(n *corev1.Node) bool {
		for _, condition := range n.Status.Conditions {
			if condition.Type == corev1.NodeReady {
				return condition.Status == corev1.ConditionTrue
			}
		}
		return false
	}
	zone := corev1.LabelTopologyZone
	if old.Labels[zone] != n.Labels[zone] || ready(old) != ready(n) || !equality.Semantic.DeepEqual(old.Status.Allocatable, n.Status.Allocatable) {
		c.nodesChanged()
	}
}

// nodesChanged tells the hints' arithmetic, and asks for the Services that it
// changes.
func (c *controller) nodesChanged() {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return
	}
	c.topology.SetNodes(klog.Background(), nodes)
	for _, key := range c.topology.GetOverloadedServices() {
		namespace, name, err := cache.SplitMetaNamespaceKey(key)
		if err == nil {
			c.loop.Add(loop.Key{Namespace: namespace, Name: name})
		}
	}
	// A zone that a node has now belongs into the slices of its Pods.
	services, err := c.services.List(labels.Everything())
	if err != nil {
		return
	}
	for _, s := range services {
		c.loop.Add(loop.KeyOf(s))
	}
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	s, err := c.services.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		c.triggers.DeleteService(key.Namespace, key.Name)
		c.reconciler.DeleteService(key.Namespace, key.Name)
		c.tracker.DeleteService(key.Namespace, key.Name)
		return nil // the garbage collector takes its slices
	}
	if err != nil {
		return err
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.Selector == nil {
		return nil
	}
	pods, err := c.pods.Pods(s.Namespace).List(labels.SelectorFromSet(s.Spec.Selector))
	if err != nil {
		return err
	}
	slices, err := c.slices.EndpointSlices(s.Namespace).List(labels.SelectorFromSet(labels.Set{
		discoveryv1.LabelServiceName: s.Name, discoveryv1.LabelManagedBy: Manager,
	}))
	if err != nil {
		return err
	}
	slices = withoutDeleted(slices)
	if c.tracker.StaleSlices(s, slices) {
		c.loop.AddAfter(key, 5*time.Millisecond) // our own last write is still on its way here
		return nil
	}
	if err := c.reconciler.Reconcile(klog.Background(), s, pods, slices, c.triggers.ComputeEndpointLastChangeTriggerTime(s.Namespace, s, pods)); err != nil {
		return fmt.Errorf("reconcile slices of %s: %w", key, err)
	}
	return nil
}

func withoutDeleted(slices []*discoveryv1.EndpointSlice) []*discoveryv1.EndpointSlice {
	var live []*discoveryv1.EndpointSlice
	for _, s := range slices {
		if s.DeletionTimestamp == nil {
			live = append(live, s)
		}
	}
	return live
}
