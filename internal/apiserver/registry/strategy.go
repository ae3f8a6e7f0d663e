package registry

import (
	"context"
	"reflect"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// strategy is the main door to a kind: create, update, delete.
type strategy[T Object] struct {
	runtime.ObjectTyper
	names.NameGenerator
	kind Kind[T]
}

func (s strategy[T]) NamespaceScoped() bool                         { return !s.kind.ClusterScoped }
func (s strategy[T]) AllowCreateOnUpdate(context.Context) bool      { return s.kind.CreateOnUpdate }
func (s strategy[T]) AllowUnconditionalUpdate(context.Context) bool { return true }
func (s strategy[T]) Canonicalize(runtime.Object)                   {}

func (s strategy[T]) PrepareForCreate(ctx context.Context, object runtime.Object) {
	var none T
	o := object.(T)
	if s.kind.Status != nil && !s.kind.CreateKeepsStatus {
		clearField(o, "Status")
	}
	if s.kind.CountsGeneration {
		o.SetGeneration(1)
	}
	if s.kind.Prepare != nil {
		s.kind.Prepare(ctx, o, none)
	}
}

func (s strategy[T]) PrepareForUpdate(ctx context.Context, object, old runtime.Object) {
	o, stored := object.(T), old.(T)
	if s.kind.Status != nil {
		copyField(o, stored, "Status")
	}
	if s.kind.Prepare != nil {
		s.kind.Prepare(ctx, o, stored)
	}
	if s.kind.CountsGeneration {
		o.SetGeneration(stored.GetGeneration())
		if !equality.Semantic.DeepEqual(fieldOf(o, "Spec"), fieldOf(stored, "Spec")) {
			o.SetGeneration(stored.GetGeneration() + 1)
		}
	}
}

func (s strategy[T]) Validate(ctx context.Context, object runtime.Object) field.ErrorList {
	o := object.(T)
	errs := validation.ValidateObjectMetaAccessor(o, s.NamespaceScoped(), s.validateName, field.NewPath("metadata"))
	if s.kind.Validate != nil {
		errs = append(errs, s.kind.Validate(ctx, o)...)
	}
	return errs
}

// ValidateUpdate leaves the metadata to rest.BeforeUpdate, which has checked it.
func (s strategy[T]) ValidateUpdate(ctx context.Context, object, old runtime.Object) field.ErrorList {
	o, stored := object.(T), old.(T)
	var errs field.ErrorList
	if s.kind.Validate != nil {
		errs = append(errs, s.kind.Validate(ctx, o)...)
	}
	if s.kind.ValidateUpdate != nil {
		errs = append(errs, s.kind.ValidateUpdate(ctx, o, stored)...)
	}
	return errs
}

func (s strategy[T]) WarningsOnCreate(ctx context.Context, object runtime.Object) []string {
	var none T
	if s.kind.Warnings == nil {
		return nil
	}
	return s.kind.Warnings(ctx, object.(T), none)
}

func (s strategy[T]) WarningsOnUpdate(ctx context.Context, object, old runtime.Object) []string {
	if s.kind.Warnings == nil {
		return nil
	}
	return s.kind.Warnings(ctx, object.(T), old.(T))
}

// GetResetFields names what this door ignores, so that server-side apply does
// not give a client the ownership of it.
func (s strategy[T]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	if s.kind.Status == nil {
		return nil
	}
	return resetFields(s.kind, "status")
}

func (s strategy[T]) validateName(name string, prefix bool) []string {
	if s.kind.Name != nil {
		return s.kind.Name(name, prefix)
	}
	return validation.NameIsDNSSubdomain(name, prefix)
}

// gracefulStrategy is the main door to a kind that is marked before it is
// deleted. It is a type of its own because the mere presence of the method
// changes how objects with finalizers are deleted.
type gracefulStrategy[T Object] struct{ strategy[T] }

func (s gracefulStrategy[T]) CheckGracefulDelete(ctx context.Context, object runtime.Object, options *metav1.DeleteOptions) bool {
	return s.kind.GracefulDelete(ctx, object.(T), options)
}

// statusStrategy is the door to the status.
type statusStrategy[T Object] struct{ strategy[T] }

func (s statusStrategy[T]) AllowCreateOnUpdate(context.Context) bool { return false }

// PrepareForUpdate puts only the spec back: new metadata is kept, because
// controllers add their finalizers by a patch of the status.
func (s statusStrategy[T]) PrepareForUpdate(ctx context.Context, object, old runtime.Object) {
	o, stored := object.(T), old.(T)
	copyField(o, stored, "Spec")
	if s.kind.CountsGeneration {
		o.SetGeneration(stored.GetGeneration())
	}
	if s.kind.Status.Prepare != nil {
		s.kind.Status.Prepare(ctx, o, stored)
	}
}

func (s statusStrategy[T]) ValidateUpdate(ctx context.Context, object, old runtime.Object) field.ErrorList {
	if s.kind.Status.Validate == nil {
		return nil
	}
	return s.kind.Status.Validate(ctx, object.(T), old.(T))
}

func (s statusStrategy[T]) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

func (s statusStrategy[T]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return resetFields(s.kind, "spec")
}

func resetFields[T Object](kind Kind[T], name string) map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		fieldpath.APIVersion(kind.Version.String()): fieldpath.NewSet(fieldpath.MakePathOrDie(name)),
	}
}

// Every kind with a status has fields named Spec and Status, or lacks the one
// that it has no use for; reflection spares each of them three functions.

func fieldOf(object any, name string) any {
	if f := reflect.ValueOf(object).Elem().FieldByName(name); f.IsValid() {
		return f.Interface()
	}
	return nil
}

func copyField(to, from any, name string) {
	if f := reflect.ValueOf(to).Elem().FieldByName(name); f.IsValid() {
		f.Set(reflect.ValueOf(from).Elem().FieldByName(name))
	}
}

func clearField(object any, name string) {
	if f := reflect.ValueOf(object).Elem().FieldByName(name); f.IsValid() {
		f.SetZero()
	}
}
