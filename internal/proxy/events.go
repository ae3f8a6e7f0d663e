package proxy

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// note is an event that is to be recorded; without a Service it is the Node's.
type note struct {
	service      types.NamespacedName
	reason, text string
}

// warn says in the log, and by an event, what a Service cannot have.
func (p *Proxy) warn(service types.NamespacedName, reason, text string) {
	p.cfg.Log.Warn(text, "service", service, "reason", reason)
	p.note(note{service, reason, text})
}

func (p *Proxy) note(n note) {
	select {
	case p.notes <- n:
	default: // hundreds at once say the same; the log has them
	}
}

// record records events until ctx ends. An event needs its object's UID, which
// may have to be fetched: that is nothing to wait for while packets do.
func (p *Proxy) record(ctx context.Context) {
	for {
		select {
		case n := <-p.notes:
			if p.cfg.Events == nil {
				continue
			}
			if o := p.regarding(ctx, n.service); o != nil {
				p.cfg.Events.Event(o, corev1.EventTypeWarning, n.reason, n.text)
			}
		case <-ctx.Done():
			return
		}
	}
}

// regarding is the object of an event; nil if it is gone or cannot be fetched.
func (p *Proxy) regarding(ctx context.Context, service types.NamespacedName) runtime.Object {
	if service.Name == "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.self.object == nil {
			return nil
		}
		return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: p.cfg.NodeName, UID: p.self.object.UID}
	}
	var s *corev1.Service
	var err error
	if p.cfg.Informers != nil {
		s, err = p.cfg.Informers.Core().V1().Services().Lister().Services(service.Namespace).Get(service.Name)
	} else {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		// A node's proxy may list Services but not get one (system:node-proxier).
		var list *corev1.ServiceList
		list, err = p.cfg.Client.CoreV1().Services(service.Namespace).List(ctx, metav1.ListOptions{
			FieldSelector: fields.OneTermEqualSelector("metadata.name", service.Name).String(),
		})
		if err == nil && len(list.Items) == 1 {
			s = &list.Items[0]
		}
	}
	if err != nil || s == nil {
		return nil
	}
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: s.Namespace, Name: s.Name, UID: s.UID, ResourceVersion: s.ResourceVersion}
}
