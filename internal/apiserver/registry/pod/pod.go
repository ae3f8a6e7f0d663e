package pod

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"viaduct.dev/viaduct/internal/apiserver/registry"
	"viaduct.dev/viaduct/internal/apiserver/registry/podtemplate"
)

// Install adds Pods to the server.
func Install(env *registry.Env, r *registry.Resources) error {
	store, err := registry.NewStore(env, registry.Kind[*corev1.Pod]{
		Version:    corev1.SchemeGroupVersion,
		Resource:   "pods",
		Singular:   "pod",
		Kind:       "Pod",
		ShortNames: []string{"po"},
		Categories: []string{"all"},
		New:        func() *corev1.Pod { return &corev1.Pod{} },
		NewList:    func() runtime.Object { return &corev1.PodList{} },
		Columns:    columns(),
		Fields: func(p *corev1.Pod) fields.Set {
			ip := ""
			if len(p.Status.PodIPs) > 0 {
				ip = p.Status.PodIPs[0].IP
			}
			return fields.Set{
				"spec.nodeName":            p.Spec.NodeName,
				"spec.restartPolicy":       string(p.Spec.RestartPolicy),
				"spec.schedulerName":       p.Spec.SchedulerName,
				"spec.serviceAccountName":  p.Spec.ServiceAccountName,
				"status.phase":             string(p.Status.Phase),
				"status.podIP":             ip,
				"status.nominatedNodeName": p.Status.NominatedNodeName,
			}
		},
		Indexed: []string{"spec.nodeName"},
		Default: func(p *corev1.Pod) { podtemplate.SetDefaults(&p.Spec) },
		Prepare: prepare,
		Validate: func(_ context.Context, p *corev1.Pod) field.ErrorList {
			return podtemplate.Validate(&p.Spec, field.NewPath("spec"))
		},
		ValidateUpdate: func(_ context.Context, p, old *corev1.Pod) field.ErrorList { return validateUpdate(p, old) },
		GracefulDelete: graceful,
		Status:         &registry.Status[*corev1.Pod]{Prepare: prepareStatus},
	})
	if err != nil {
		return err
	}
	if err := store.AddTo(r); err != nil {
		return err
	}
	if err := r.Add(corev1.SchemeGroupVersion, "pods/binding", &bindingREST{store: store.Store}); err != nil {
		return err
	}
	return addConnections(env, r, store)
}

// prepare gives a new Pod its first status.
func prepare(_ context.Context, p, old *corev1.Pod) {
	if old != nil {
		return
	}
	p.Generation = 1
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: podtemplate.QOSClass(&p.Spec)}
}

// prepareStatus keeps what a status never changes.
func prepareStatus(_ context.Context, p, old *corev1.Pod) {
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = old.DeletionTimestamp, old.DeletionGracePeriodSeconds
	p.Status.QOSClass = old.Status.QOSClass
	if len(p.Status.PodIPs) > 0 {
		p.Status.PodIP = p.Status.PodIPs[0].IP
	} else if p.Status.PodIP != "" {
		p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	}
}

// graceful marks a Pod that runs somewhere; its agent deletes it when it has
// ended. One that is nowhere, or has ended, goes at once.
func graceful(_ context.Context, p *corev1.Pod, options *metav1.DeleteOptions) bool {
	if options == nil {
		return false
	}
	var seconds int64
	switch {
	case options.GracePeriodSeconds != nil:
		seconds = *options.GracePeriodSeconds
	case p.Spec.TerminationGracePeriodSeconds != nil:
		seconds = *p.Spec.TerminationGracePeriodSeconds
	}
	if p.Spec.NodeName == "" || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		seconds = 0
	}
	if seconds < 0 {
		seconds = 1
	}
	options.GracePeriodSeconds = &seconds
	return true
}
