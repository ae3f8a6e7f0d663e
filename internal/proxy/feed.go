package proxy

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"viaduct.dev/viaduct/internal/proxy/metrics"
	"viaduct.dev/viaduct/internal/servicetable"
)

// SetService tells of a Service. Like all that feeds a proxy it may be called
// from everywhere, and never waits for the kernel.
func (p *Proxy) SetService(s *corev1.Service) {
	p.cfg.Metrics.ServiceChanged()
	p.change(func(t *servicetable.Table) { t.SetService(s) })
}

// DeleteService tells that a Service is gone since a revision.
func (p *Proxy) DeleteService(name types.NamespacedName, resourceVersion string) {
	p.cfg.Metrics.ServiceChanged()
	p.change(func(t *servicetable.Table) { t.DeleteService(name, resourceVersion) })
}

// SetSlice tells of an EndpointSlice.
func (p *Proxy) SetSlice(s *discoveryv1.EndpointSlice) {
	var trigger time.Time
	if p.isSynced() { // what is merely listed happened long ago
		trigger = metrics.TriggerTime(s)
	}
	p.cfg.Metrics.EndpointsChanged(trigger)
	p.change(func(t *servicetable.Table) { t.SetSlice(s) })
}

// DeleteSlice tells that an EndpointSlice is gone since a revision.
func (p *Proxy) DeleteSlice(name types.NamespacedName, resourceVersion string) {
	p.cfg.Metrics.EndpointsChanged(time.Time{})
	p.change(func(t *servicetable.Table) { t.DeleteSlice(name, resourceVersion) })
}

func (p *Proxy) change(fn func(*servicetable.Table)) {
	p.mu.Lock()
	fn(p.table)
	p.mu.Unlock()
	p.cfg.Health.Queued()
	p.cfg.Metrics.Queued()
	p.poke()
}

func (p *Proxy) isSynced() bool {
	select {
	case <-p.synced:
		return true
	default:
		return false
	}
}

// followInformers is fed by informers that are there for others anyway. It
// returns what tells that all is known.
func (p *Proxy) followInformers() ([]cache.DoneChecker, error) {
	services, err := p.cfg.Informers.Core().V1().Services().Informer().AddEventHandler(handler(p.SetService,
		func(s *corev1.Service) { p.DeleteService(nameOf(s), s.ResourceVersion) }))
	if err != nil {
		return nil, err
	}
	slices, err := p.cfg.Informers.Discovery().V1().EndpointSlices().Informer().AddEventHandler(handler(p.SetSlice,
		func(s *discoveryv1.EndpointSlice) { p.DeleteSlice(nameOf(s), s.ResourceVersion) }))
	if err != nil {
		return nil, err
	}
	nodes := p.cfg.Nodes
	if nodes == nil {
		nodes = p.cfg.Informers.Core().V1().Nodes()
	}
	self, err := nodes.Informer().AddEventHandler(handler(p.SetNode, func(n *corev1.Node) { p.DeleteNode(n.Name) }))
	if err != nil {
		return nil, err
	}
	return []cache.DoneChecker{services.HasSyncedChecker(), slices.HasSyncedChecker(), self.HasSyncedChecker()}, nil
}

// handler makes two functions an informer's.
func handler[T any](set, gone func(T)) cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { set(o.(T)) },
		UpdateFunc: func(_, o any) { set(o.(T)) },
		DeleteFunc: func(o any) {
			if unknown, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = unknown.Obj
			}
			if last, ok := o.(T); ok {
				gone(last)
			}
		},
	}
}

func nameOf(o interface {
	GetNamespace() string
	GetName() string
}) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}
