// Package replicaset serves ReplicaSets (apps/v1) and their scale.
package replicaset

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"viaduct.dev/viaduct/internal/apiserver/registry"
	"viaduct.dev/viaduct/internal/apiserver/registry/podtemplate"
	"viaduct.dev/viaduct/internal/apiserver/registry/scale"
	"viaduct.dev/viaduct/internal/apiserver/table"
)

type replicaSet = *appsv1.ReplicaSet

// Install adds ReplicaSets to the server.
func Install(env *registry.Env, r *registry.Resources) error {
	store, err := registry.NewStore(env, registry.Kind[replicaSet]{
		Version:    appsv1.SchemeGroupVersion,
		Resource:   "replicasets",
		Singular:   "replicaset",
		Kind:       "ReplicaSet",
		ShortNames: []string{"rs"},
		Categories: []string{"all"},
		New:        func() replicaSet { return &appsv1.ReplicaSet{} },
		NewList:    func() runtime.Object { return &appsv1.ReplicaSetList{} },
		Columns: []table.Column[replicaSet]{
			{Name: "Desired", Type: "integer", Description: "How many Pods are wanted.", Cell: func(s replicaSet) any { return int64(ptr.Deref(s.Spec.Replicas, 1)) }},
			{Name: "Current", Type: "integer", Description: "How many Pods there are.", Cell: func(s replicaSet) any { return int64(s.Status.Replicas) }},
			{Name: "Ready", Type: "integer", Description: "How many Pods are ready.", Cell: func(s replicaSet) any { return int64(s.Status.ReadyReplicas) }},
			table.Age[replicaSet](),
			{Name: "Containers", Wide: true, Description: "The template's containers.", Cell: func(s replicaSet) any { return podtemplate.ContainerNames(&s.Spec.Template) }},
			{Name: "Images", Wide: true, Description: "The template's images.", Cell: func(s replicaSet) any { return podtemplate.ContainerImages(&s.Spec.Template) }},
			{Name: "Selector", Wide: true, Description: "The labels of its Pods.", Cell: func(s replicaSet) any { return metav1.FormatLabelSelector(s.Spec.Selector) }},
		},
		Default: func(s replicaSet) {
			if s.Spec.Replicas == nil {
				s.Spec.Replicas = ptr.To[int32](1)
			}
			podtemplate.SetDefaults(&s.Spec.Template.Spec)
		},
		Validate: func(_ context.Context, s replicaSet) field.ErrorList {
			return podtemplate.ValidateWorkload(s.Spec.Selector, &s.Spec.Template, s.Spec.Replicas, field.NewPath("spec"))
		},
		ValidateUpdate: func(_ context.Context, s, old replicaSet) field.ErrorList {
			return validation.ValidateImmutableField(s.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))
		},
		Status:           &registry.Status[replicaSet]{},
		CountsGeneration: true,
	})
	if err != nil {
		return err
	}
	if err := store.AddTo(r); err != nil {
		return err
	}
	return r.Add(appsv1.SchemeGroupVersion, "replicasets/scale", &scale.REST[replicaSet]{
		Store: store.Store, Version: appsv1.SchemeGroupVersion, Resource: "replicasets",
		Replicas: func(s replicaSet) (*int32, int32, *metav1.LabelSelector) {
			return s.Spec.Replicas, s.Status.Replicas, s.Spec.Selector
		},
		SetReplicas: func(s replicaSet, n int32) { s.Spec.Replicas = &n },
	})
}
