package registry

import (
	"context"
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"viaduct.dev/viaduct/internal/apiserver/table"
)

// Store serves a kind. The hooks of the embedded store (BeginCreate,
// BeginUpdate, AfterDelete, ...) may be set until the store is added to the
// Resources.
type Store[T Object] struct {
	*genericregistry.Store
	kind Kind[T]
	main strategy[T]
}

// NewStore makes the store of a kind and tells the scheme about its defaulting
// and its selectable fields.
func NewStore[T Object](env *Env, kind Kind[T]) (*Store[T], error) {
	main := strategy[T]{ObjectTyper: env.Scheme.Hub, NameGenerator: names.SimpleNameGenerator, kind: kind}
	s := &Store[T]{
		kind: kind,
		main: main,
		Store: &genericregistry.Store{
			NewFunc:                   func() runtime.Object { return kind.New() },
			NewListFunc:               kind.NewList,
			DefaultQualifiedResource:  schema.GroupResource{Group: kind.Version.Group, Resource: kind.Resource},
			SingularQualifiedResource: schema.GroupResource{Group: kind.Version.Group, Resource: kind.Singular},
			CreateStrategy:            main,
			UpdateStrategy:            main,
			DeleteStrategy:            main,
			ResetFieldsStrategy:       main,
			TableConvertor:            table.New(kind.Columns...),
		},
	}
	if kind.GracefulDelete != nil {
		s.DeleteStrategy = gracefulStrategy[T]{main}
	}
	if kind.TTLSeconds != 0 {
		s.TTLFunc = func(runtime.Object, uint64, bool) (uint64, error) { return kind.TTLSeconds, nil }
	}
	if kind.Default != nil {
		env.Scheme.Hub.AddTypeDefaultingFunc(kind.New(), func(object any) { kind.Default(object.(T)) })
	}
	if err := s.addFieldLabels(env); err != nil {
		return nil, fmt.Errorf("%s: selectable fields: %w", kind.Resource, err)
	}
	options := &generic.StoreOptions{RESTOptions: env.Storage, AttrFunc: s.attributes}
	if len(kind.Indexed) > 0 {
		options.TriggerFunc, options.Indexers = s.indexes()
	}
	if err := s.CompleteWithOptions(options); err != nil {
		return nil, fmt.Errorf("%s: open storage: %w", kind.Resource, err)
	}
	return s, nil
}

// Install makes the store of a kind that needs no hooks and serves it with its
// status, if it has one.
func Install[T Object](env *Env, r *Resources, kind Kind[T]) error {
	s, err := NewStore(env, kind)
	if err != nil {
		return err
	}
	return s.AddTo(r)
}

// AddTo serves the store, and its status subresource if the kind has one. The
// store's hooks must be set by now: the status has a copy of those for deletion,
// since the removal of a last finalizer through it deletes the object.
func (s *Store[T]) AddTo(r *Resources) error {
	if err := r.Add(s.kind.Version, s.kind.Resource, s); err != nil {
		return err
	}
	if s.kind.Status == nil {
		return nil
	}
	return r.Add(s.kind.Version, s.kind.Resource+"/status", s.StatusREST())
}

// ShortNames implements rest.ShortNamesProvider.
func (s *Store[T]) ShortNames() []string { return s.kind.ShortNames }

// Categories implements rest.CategoriesProvider.
func (s *Store[T]) Categories() []string { return s.kind.Categories }

// Read returns an object as the watch cache knows it, which may lag behind by
// milliseconds; ReadLatest asks the store itself. Both return a copy.
func (s *Store[T]) Read(ctx context.Context, namespace, name string) (T, error) {
	return s.read(ctx, namespace, name, "0")
}

// ReadLatest returns an object as the store has it now.
func (s *Store[T]) ReadLatest(ctx context.Context, namespace, name string) (T, error) {
	return s.read(ctx, namespace, name, "")
}

func (s *Store[T]) read(ctx context.Context, namespace, name, resourceVersion string) (T, error) {
	var none T
	if !s.kind.ClusterScoped {
		ctx = genericapirequest.WithNamespace(ctx, namespace)
	}
	// An error is about this kind, not about the one that was requested.
	ctx = genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{
		IsResourceRequest: true, APIGroup: s.kind.Version.Group, APIVersion: s.kind.Version.Version,
		Resource: s.kind.Resource, Namespace: namespace, Name: name, Verb: "get",
	})
	object, err := s.Get(ctx, name, &metav1.GetOptions{ResourceVersion: resourceVersion})
	if err != nil {
		return none, err
	}
	return object.(T), nil
}

func (s *Store[T]) fieldSet(object T) fields.Set {
	set := fields.Set{"metadata.name": object.GetName()}
	if !s.kind.ClusterScoped {
		set["metadata.namespace"] = object.GetNamespace()
	}
	if s.kind.Fields != nil {
		maps.Copy(set, s.kind.Fields(object))
	}
	return set
}

func (s *Store[T]) attributes(object runtime.Object) (labels.Set, fields.Set, error) {
	o, ok := object.(T)
	if !ok {
		return nil, nil, fmt.Errorf("%s: got a %T", s.kind.Resource, object)
	}
	return o.GetLabels(), s.fieldSet(o), nil
}

func (s *Store[T]) addFieldLabels(env *Env) error {
	known := slices.Collect(maps.Keys(s.fieldSet(s.kind.New())))
	return env.Scheme.Hub.AddFieldLabelConversionFunc(s.kind.Version.WithKind(s.kind.Kind),
		func(label, value string) (string, string, error) {
			if !slices.Contains(known, label) {
				return "", "", fmt.Errorf("field label not supported: %s", label)
			}
			return label, value, nil
		})
}

func (s *Store[T]) indexes() (storage.IndexerFuncs, *cache.Indexers) {
	triggers, indexers := storage.IndexerFuncs{}, cache.Indexers{}
	for _, label := range s.kind.Indexed {
		triggers[label] = func(object runtime.Object) string { return s.kind.Fields(object.(T))[label] }
		indexers[storage.FieldIndex(label)] = func(object any) ([]string, error) {
			o, ok := object.(T)
			if !ok {
				return nil, fmt.Errorf("%s: got a %T", s.kind.Resource, object)
			}
			return []string{s.kind.Fields(o)[label]}, nil
		}
	}
	return triggers, &indexers
}

// StatusREST serves <resource>/status over a copy of the store, hooks included,
// that has the status's own strategy. AddTo calls it for you.
func (s *Store[T]) StatusREST() rest.Storage {
	strategy := statusStrategy[T]{s.main}
	store := *s.Store
	store.BeginUpdate, store.AfterUpdate = nil, nil // nothing is allocated by a status
	store.UpdateStrategy = strategy
	store.ResetFieldsStrategy = strategy
	return &statusREST[T]{store: &store}
}

type statusREST[T Object] struct{ store *genericregistry.Store }

func (r *statusREST[T]) New() runtime.Object { return r.store.New() }

// Destroy leaves the storage to the store that shares it.
func (r *statusREST[T]) Destroy() {}

func (r *statusREST[T]) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, options)
}

func (r *statusREST[T]) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return r.store.Update(ctx, name, info, create, update, false, options)
}

func (r *statusREST[T]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.store.GetResetFields()
}

func (r *statusREST[T]) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, object, options)
}

var (
	_ rest.StandardStorage    = (*Store[table.Object])(nil)
	_ rest.ShortNamesProvider = (*Store[table.Object])(nil)
	_ rest.CategoriesProvider = (*Store[table.Object])(nil)
	_ rest.Patcher            = (*statusREST[table.Object])(nil)
)
