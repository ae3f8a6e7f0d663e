package store

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	"k8s.io/client-go/tools/cache"

	"viaduct.dev/viaduct/internal/apiserver/scheme"
)

const (
	prefix         = "/registry"
	storageVersion = "v1"
	deleteWorkers  = 4
)

// RESTOptions opens the storage of each resource: protobuf of version v1 in
// etcd, behind a watch cache. Events alone have no cache, as in kube-apiserver:
// they are written often and hardly ever read.
//
// The caches fill from when sealed is closed: the scheme has no lock, and they
// must not decode with it while the next kind still adds its defaulting.
func (s *Store) RESTOptions(known *scheme.Scheme, sealed <-chan struct{}) generic.RESTOptionsGetter {
	return &options{store: s, scheme: known, sealed: sealed, codecs: map[string]codec{}}
}

type options struct {
	store  *Store
	scheme *scheme.Scheme
	sealed <-chan struct{}

	mu     sync.Mutex
	codecs map[string]codec // by group
}

type codec struct {
	runtime.Codec
	versioner runtime.GroupVersioner
}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (o *options) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	c, err := o.codec(resource.Group)
	if err != nil {
		return generic.RESTOptions{}, fmt.Errorf("storage codec of %s: %w", resource, err)
	}
	cfg := storagebackend.NewDefaultConfig(prefix, c)
	cfg.EncodeVersioner = c.versioner
	decorator := o.cached
	if resource.Resource == "events" {
		decorator = o.uncached
	}
	return generic.RESTOptions{
		StorageConfig:           cfg.ForResource(resource),
		Decorator:               decorator,
		EnableGarbageCollection: true,
		DeleteCollectionWorkers: deleteWorkers,
		ResourcePrefix:          resource.Resource,
	}, nil
}

func (o *options) codec(group string) (codec, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c, ok := o.codecs[group]; ok {
		return c, nil
	}
	c, versioner, err := serverstorage.NewStorageCodec(serverstorage.StorageCodecConfig{
		StorageMediaType:  runtime.ContentTypeProtobuf,
		StorageSerializer: o.scheme.Codecs,
		StorageVersion:    schema.GroupVersion{Group: storageGroup(group), Version: storageVersion},
		MemoryVersion:     scheme.Internal(group),
	})
	if err != nil {
		return codec{}, err
	}
	o.codecs[group] = codec{c, versioner}
	return o.codecs[group], nil
}

// storageGroup is the group whose kinds are stored for a group: its own, except
// that events of both groups are kept as those of core.
func storageGroup(group string) string {
	if group == eventsv1.GroupName {
		return corev1.GroupName
	}
	return group
}

func (o *options) uncached(
	cfg *storagebackend.ConfigForResource, resourcePrefix string, _ func(runtime.Object) (string, error),
	newFunc, newListFunc func() runtime.Object, _ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers,
) (storage.Interface, factory.DestroyFunc, error) {
	versioner := storage.APIObjectVersioner{}
	// Watches of one client share a stream, on which the progress that one of
	// them asks for is reported to all: so each resource has its own.
	client := newClient(o.store.etcd)
	raw, err := etcd3.New(client, o.store.compactor, cfg.Codec, newFunc, newListFunc, cfg.Prefix, resourcePrefix,
		cfg.GroupResource, identity.NewEncryptCheckTransformer(), cfg.LeaseManagerConfig,
		etcd3.NewDefaultDecoder(cfg.Codec, versioner), versioner)
	if err != nil {
		return nil, nil, err
	}
	return raw, sync.OnceFunc(func() {
		raw.Close()
		_ = client.Close()
	}), nil
}

func (o *options) cached(
	cfg *storagebackend.ConfigForResource, resourcePrefix string, keyFunc func(runtime.Object) (string, error),
	newFunc, newListFunc func() runtime.Object, attributes storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers,
) (storage.Interface, factory.DestroyFunc, error) {
	raw, closeRaw, err := o.uncached(cfg, resourcePrefix, keyFunc, newFunc, newListFunc, attributes, triggers, indexers)
	if err != nil {
		return nil, nil, err
	}
	raw = prompt{raw}
	cached, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage:             patient{raw, o.sealed},
		Versioner:           storage.APIObjectVersioner{},
		GroupResource:       cfg.GroupResource,
		EventsHistoryWindow: cfg.EventsHistoryWindow,
		ResourcePrefix:      resourcePrefix,
		KeyFunc:             keyFunc,
		NewFunc:             newFunc,
		NewListFunc:         newListFunc,
		GetAttrsFunc:        attributes,
		IndexerFuncs:        triggers,
		Indexers:            indexers,
		Codec:               cfg.Codec,
	})
	if err != nil {
		closeRaw()
		return nil, nil, err
	}
	delegator := cacher.NewCacheDelegator(cached, raw)
	return delegator, sync.OnceFunc(func() {
		delegator.Stop()
		cached.Stop()
		closeRaw()
	}), nil
}

// prompt makes consistent reads from the watch cache quick. Such a read asks
// for the current revision and waits until the cache's watch has reached it;
// when nothing has changed lately, that is when etcd says so, for which the
// cache asks after a tenth of a second. Here it is asked at once.
type prompt struct{ storage.Interface }

// GetCurrentResourceVersion implements storage.Interface.
func (p prompt) GetCurrentResourceVersion(ctx context.Context) (uint64, error) {
	revision, err := p.Interface.GetCurrentResourceVersion(ctx)
	if err != nil {
		return 0, err
	}
	// If this fails the cache's own request will come.
	_ = p.Interface.RequestWatchProgress(ctx)
	return revision, nil
}

// patient is what a watch cache fills itself from: it waits for the scheme.
type patient struct {
	storage.Interface
	sealed <-chan struct{}
}

// GetList implements storage.Interface.
func (p patient) GetList(ctx context.Context, key string, options storage.ListOptions, list runtime.Object) error {
	if err := p.wait(ctx); err != nil {
		return err
	}
	return p.Interface.GetList(ctx, key, options, list)
}

// Watch implements storage.Interface.
func (p patient) Watch(ctx context.Context, key string, options storage.ListOptions) (watch.Interface, error) {
	if err := p.wait(ctx); err != nil {
		return nil, err
	}
	return p.Interface.Watch(ctx, key, options)
}

func (p patient) wait(ctx context.Context) error {
	select {
	case <-p.sealed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
