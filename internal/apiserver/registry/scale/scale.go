// Package scale serves the scale subresource of those who make replicas: how
// many there shall be, and how many there are, as autoscaling/v1 Scale.
package scale

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"viaduct.dev/viaduct/internal/apiserver/registry"
)

// REST serves <resource>/scale of a kind.
type REST[T registry.Object] struct {
	Store *genericregistry.Store
	// Version and Resource are the kind's own.
	Version  schema.GroupVersion
	Resource string
	// Replicas gives where the object says how many it wants, how many it has,
	// and the selector of its Pods.
	Replicas func(T) (want *int32, have int32, selector *metav1.LabelSelector)
	// SetReplicas says how many it shall want.
	SetReplicas func(T, int32)
}

func (r *REST[T]) New() runtime.Object { return &autoscalingv1.Scale{} }

// Destroy leaves the storage to the store that shares it.
func (r *REST[T]) Destroy() {}

// GroupVersionKind implements rest.GroupVersionKindProvider.
func (r *REST[T]) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

// Get gives the object's scale.
func (r *REST[T]) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	object, err := r.Store.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	return r.scale(object.(T))
}

// ConvertToTable implements rest.TableConvertor.
func (r *REST[T]) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return rest.NewDefaultTableConvertor(autoscalingv1.Resource("scales")).ConvertToTable(ctx, object, options)
}

func (r *REST[T]) scale(object T) (*autoscalingv1.Scale, error) {
	want, have, selector := r.Replicas(object)
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("selector of %s %s: %w", r.Resource, object.GetName(), err))
	}
	out := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: object.GetName(), Namespace: object.GetNamespace(), UID: object.GetUID(),
			ResourceVersion: object.GetResourceVersion(), CreationTimestamp: object.GetCreationTimestamp(),
		},
		Status: autoscalingv1.ScaleStatus{Replicas: have, Selector: s.String()},
	}
	if want != nil {
		out.Spec.Replicas = *want
	}
	return out, nil
}

// Update writes the number of replicas that is wanted.
func (r *REST[T]) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc, updateValidation rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	object, _, err := r.Store.Update(ctx, name, &updatedObject[T]{r, info},
		asScaleCreate(r, createValidation), asScaleUpdate(r, updateValidation), false, options)
	if err != nil {
		return nil, false, err
	}
	s, err := r.scale(object.(T))
	return s, false, err
}

func asScaleCreate[T registry.Object](r *REST[T], validate rest.ValidateObjectFunc) rest.ValidateObjectFunc {
	return func(ctx context.Context, object runtime.Object) error {
		s, err := r.scale(object.(T))
		if err != nil || validate == nil {
			return err
		}
		return validate(ctx, s)
	}
}

func asScaleUpdate[T registry.Object](r *REST[T], validate rest.ValidateObjectUpdateFunc) rest.ValidateObjectUpdateFunc {
	return func(ctx context.Context, object, old runtime.Object) error {
		s, err := r.scale(object.(T))
		if err != nil || validate == nil {
			return err
		}
		o, err := r.scale(old.(T))
		if err != nil {
			return err
		}
		return validate(ctx, s, o)
	}
}

// updatedObject turns an update of the scale into one of its object.
type updatedObject[T registry.Object] struct {
	r    *REST[T]
	info rest.UpdatedObjectInfo
}

func (u *updatedObject[T]) Preconditions() *metav1.Preconditions { return u.info.Preconditions() }

func (u *updatedObject[T]) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	object := old.DeepCopyObject().(T)
	paths := managedfields.ResourcePathMappings{
		u.r.Version.String(): fieldpath.MakePathOrDie("spec", "replicas"),
	}
	managed := managedfields.NewScaleHandler(object.GetManagedFields(), u.r.Version, paths)
	was, err := u.r.scale(object)
	if err != nil {
		return nil, err
	}
	entries, err := managed.ToSubresource()
	if err != nil {
		return nil, err
	}
	was.ManagedFields = entries
	changed, err := u.info.UpdatedObject(ctx, was)
	if err != nil {
		return nil, err
	}
	s, ok := changed.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected a Scale, got %T", changed))
	}
	if s.Spec.Replicas < 0 {
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), s.Name,
			field.ErrorList{field.Invalid(field.NewPath("spec", "replicas"), s.Spec.Replicas, "must be greater than or equal to 0")})
	}
	if s.ResourceVersion != "" {
		object.SetResourceVersion(s.ResourceVersion)
	}
	u.r.SetReplicas(object, s.Spec.Replicas)
	entries, err = managed.ToParent(s.ManagedFields)
	if err != nil {
		return nil, err
	}
	object.SetManagedFields(entries)
	return object, nil
}
