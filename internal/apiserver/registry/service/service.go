package service

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"

	"viaduct.dev/viaduct/internal/apiserver/registry"
)

// Install adds Services to the server.
func Install(env *registry.Env, r *registry.Resources) error {
	alloc, err := newAllocation(env)
	if err != nil {
		return err
	}
	store, err := registry.NewStore(env, registry.Kind[*corev1.Service]{
		Version:    corev1.SchemeGroupVersion,
		Resource:   "services",
		Singular:   "service",
		Kind:       "Service",
		ShortNames: []string{"svc"},
		Categories: []string{"all"},
		New:        func() *corev1.Service { return &corev1.Service{} },
		NewList:    func() runtime.Object { return &corev1.ServiceList{} },
		Columns:    columns(),
		Fields: func(s *corev1.Service) fields.Set {
			return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
		},
		Default:        setDefaults,
		Name:           validName,
		Prepare:        func(_ context.Context, s, old *corev1.Service) { dropStaleStatus(s) },
		Validate:       func(_ context.Context, s *corev1.Service) errorList { return validate(s) },
		ValidateUpdate: func(_ context.Context, s, old *corev1.Service) errorList { return validateUpdate(s, old) },
		Warnings:       warnings,
		Status:         &registry.Status[*corev1.Service]{Validate: validateStatus},
	})
	if err != nil {
		return err
	}
	store.BeginCreate = func(ctx context.Context, object runtime.Object, options *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
		return alloc.create(ctx, object.(*corev1.Service), isDryRun(options.DryRun))
	}
	store.BeginUpdate = func(ctx context.Context, object, old runtime.Object, options *metav1.UpdateOptions) (genericregistry.FinishFunc, error) {
		return alloc.update(ctx, object.(*corev1.Service), old.(*corev1.Service), isDryRun(options.DryRun))
	}
	store.AfterDelete = func(object runtime.Object, options *metav1.DeleteOptions) {
		if !isDryRun(options.DryRun) {
			alloc.deleted(object.(*corev1.Service))
		}
	}
	r.Start("load-service-allocations", alloc.load)
	return store.AddTo(r)
}

func isDryRun(dryRun []string) bool { return len(dryRun) > 0 }

// validName is a DNS label (KEP-5311: it may start with a digit).
func validName(name string, prefix bool) []string {
	if prefix && len(name) > 0 && name[len(name)-1] == '-' {
		name += "a" // what is generated follows
	}
	return validation.IsDNS1123Label(name)
}

// dropStaleStatus forgets the address of a load balancer that is none any more.
func dropStaleStatus(s *corev1.Service) {
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}
