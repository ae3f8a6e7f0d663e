package namespace

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"viaduct.dev/viaduct/internal/apiserver/registry"
)

// namespaceREST is the store with a deletion in two steps.
type namespaceREST struct {
	*registry.Store[*corev1.Namespace]
	withoutCollection
}

// withoutCollection takes DeleteCollection from what embeds it beside a store:
// Go promotes neither of two methods of one name and depth. Namespaces are not
// deleted by the collection, which would empty the cluster at a stroke.
type withoutCollection struct{ collection }

type collection struct{}

// DeleteCollection is never called.
func (collection) DeleteCollection() {}

// Delete marks a namespace Terminating; one that is marked goes only when its
// finalizers have been emptied.
func (r *namespaceREST) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	object, err := r.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	n := object.(*corev1.Namespace)
	preconditions := storage.Preconditions{UID: &n.UID}
	if options.Preconditions != nil {
		preconditions.ResourceVersion = options.Preconditions.ResourceVersion
		if uid := options.Preconditions.UID; uid != nil {
			preconditions.UID = uid
		}
	}
	if n.DeletionTimestamp.IsZero() {
		return r.terminate(ctx, name, validate, preconditions, options)
	}
	if len(n.Spec.Finalizers) != 0 {
		if err := preconditions.Check(name, n); err != nil {
			return nil, false, storeerr.InterpretDeleteError(err, r.DefaultQualifiedResource, name)
		}
		return n, false, nil
	}
	return r.Store.Delete(ctx, name, validate, options)
}

func (r *namespaceREST) terminate(ctx context.Context, name string, validate rest.ValidateObjectFunc, preconditions storage.Preconditions, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	key, err := r.KeyFunc(ctx, name)
	if err != nil {
		return nil, false, err
	}
	out := &corev1.Namespace{}
	err = r.Storage.GuaranteedUpdate(ctx, key, out, false, &preconditions,
		storage.SimpleUpdate(func(object runtime.Object) (runtime.Object, error) {
			n, ok := object.(*corev1.Namespace)
			if !ok {
				return nil, apierrors.NewInternalError(errNotANamespace)
			}
			if err := validate(ctx, n); err != nil {
				return nil, err
			}
			if n.DeletionTimestamp.IsZero() {
				now, immediately := metav1.Now(), int64(0)
				n.DeletionTimestamp, n.DeletionGracePeriodSeconds = &now, &immediately
			}
			n.Status.Phase = corev1.NamespaceTerminating
			return n, nil
		}), dryrun.IsDryRun(options.DryRun), nil)
	if err != nil {
		err = storeerr.InterpretUpdateError(err, r.DefaultQualifiedResource, name)
		if _, ok := err.(*apierrors.StatusError); !ok {
			err = apierrors.NewInternalError(err)
		}
		return nil, false, err
	}
	return out, false, nil
}

// finalizeREST serves namespaces/finalize, by which the finalizers of the spec
// are changed and nothing else.
type finalizeREST struct{ store *genericregistry.Store }

func newFinalizeREST(s *registry.Store[*corev1.Namespace]) *finalizeREST {
	store := *s.Store
	store.UpdateStrategy = finalizeStrategy{store.UpdateStrategy}
	store.ResetFieldsStrategy = nil
	return &finalizeREST{&store}
}

func (r *finalizeREST) New() runtime.Object { return r.store.New() }

func (r *finalizeREST) Destroy() {}

func (r *finalizeREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return r.store.Update(ctx, name, info, create, update, false, options)
}

func (r *finalizeREST) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set { return nil }

// finalizeStrategy is the store's with the finalizers let through.
type finalizeStrategy struct{ rest.RESTUpdateStrategy }

func (finalizeStrategy) PrepareForUpdate(_ context.Context, object, old runtime.Object) {
	n, stored := object.(*corev1.Namespace), old.(*corev1.Namespace)
	n.Status = stored.Status
}

func (finalizeStrategy) ValidateUpdate(ctx context.Context, object, _ runtime.Object) field.ErrorList {
	return validate(ctx, object.(*corev1.Namespace))
}
