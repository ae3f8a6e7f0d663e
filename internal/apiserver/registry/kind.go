package registry

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"viaduct.dev/viaduct/internal/apiserver/table"
)

// Object is a pointer to an API type, such as *corev1.ConfigMap.
type Object = table.Object

// Kind says everything that is particular about one kind of object. The zero
// value of every optional field means "nothing particular".
//
// Functions are called by many requests at once. Objects that they are given
// to change are their own; `old` objects belong to the cache and are read only.
type Kind[T Object] struct {
	// Version, Resource (plural), Singular and Kind name it: v1, "configmaps",
	// "configmap", "ConfigMap". Required.
	Version  schema.GroupVersion
	Resource string
	Singular string
	Kind     string
	// ShortNames and Categories are kubectl's ("cm"; "all").
	ShortNames []string
	Categories []string
	// ClusterScoped kinds have no namespace.
	ClusterScoped bool

	// New and NewList make empty objects. Required.
	New     func() T
	NewList func() runtime.Object

	// Columns follow NAME in kubectl's table.
	Columns []table.Column[T]
	// Fields are the selectable fields beside metadata.name and
	// metadata.namespace. Their labels must not depend on the object.
	Fields func(T) fields.Set
	// Indexed are the labels of those Fields that many watchers select by
	// equality (a Pod's spec.nodeName): an event then wakes only its watchers.
	Indexed []string

	// Default fills in what was left out. It runs on every object read, from a
	// client or from the store, and must be idempotent.
	Default func(T)
	// Name checks metadata.name; nil asks for a DNS subdomain.
	Name func(name string, prefix bool) []string
	// Prepare normalizes an object before it is validated, after the server
	// has taken from it what the client may not set (the status, for kinds with
	// one). On create old is the zero T (nil).
	Prepare func(ctx context.Context, object, old T)
	// Validate checks what the client sent; metadata is checked already. On
	// create old is nil; on update ValidateUpdate is called too.
	Validate       func(ctx context.Context, object T) field.ErrorList
	ValidateUpdate func(ctx context.Context, object, old T) field.ErrorList
	// Warnings are shown by kubectl and do not refuse anything. On create old
	// is nil.
	Warnings func(ctx context.Context, object, old T) []string

	// Status is set for kinds whose Spec and Status are written through
	// different doors.
	Status *Status[T]
	// CreateKeepsStatus lets a create state the status too (nodes, which register
	// themselves whole).
	CreateKeepsStatus bool
	// CountsGeneration raises metadata.generation when Spec changes.
	CountsGeneration bool
	// CreateOnUpdate lets a PUT make the object (leases, events, endpoints).
	CreateOnUpdate bool
	// GracefulDelete decides whether a deletion only marks the object first; it
	// then sets options.GracePeriodSeconds. See rest.RESTGracefulDeleteStrategy.
	GracefulDelete func(ctx context.Context, object T, options *metav1.DeleteOptions) bool
	// TTLSeconds removes objects that long after their last write.
	TTLSeconds uint64
}

// Status says what is particular about a kind's status subresource. The zero
// value is fine: the door to the status keeps the stored spec and takes the new
// status and metadata (finalizers arrive that way).
type Status[T Object] struct {
	// Prepare normalizes after the stored spec was put back.
	Prepare func(ctx context.Context, object, old T)
	// Validate checks the new status.
	Validate func(ctx context.Context, object, old T) field.ErrorList
}
