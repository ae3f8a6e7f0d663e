package registry

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/netip"

	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"

	"viaduct.dev/viaduct/internal/apiserver/scheme"
)

// Env is what a kind may need to know about the server that it is part of.
type Env struct {
	Scheme  *scheme.Scheme
	Storage generic.RESTOptionsGetter
	// ServiceCIDRs are the ranges of cluster IPs, the primary family first.
	ServiceCIDRs []netip.Prefix
	// NodePorts is the range of node ports.
	NodePorts utilnet.PortRange
	// Loopback is how the server is a client of itself: in process, and allowed
	// everything. It may be used from a Start hook on.
	Loopback *restclient.Config
	// AgentTLS is how the server is a client of the agents (logs, exec). It is
	// nil when there are none.
	AgentTLS *tls.Config
	// Authorizer decides what a user may do.
	Authorizer authorizer.Authorizer
	Log        *slog.Logger
}

// Installer adds a kind to the server: its resources and its start hooks.
type Installer func(*Env, *Resources) error

// Resources collects what the installers bring.
type Resources struct {
	storage map[schema.GroupVersion]map[string]rest.Storage
	order   []schema.GroupVersion
	hooks   []Hook
	plugins []admission.Interface
}

// Hook is work to be done after the storage is ready and before the server
// says that it is: loading an allocator, making default objects.
type Hook struct {
	Name string
	Run  func(context.Context) error
}

// Add serves storage as the resource, or subresource ("pods/log"), path of a
// group version.
func (r *Resources) Add(version schema.GroupVersion, path string, storage rest.Storage) error {
	if r.storage == nil {
		r.storage = map[schema.GroupVersion]map[string]rest.Storage{}
	}
	byPath, ok := r.storage[version]
	if !ok {
		byPath = map[string]rest.Storage{}
		r.storage[version] = byPath
		r.order = append(r.order, version)
	}
	if _, taken := byPath[path]; taken {
		return fmt.Errorf("resource %s %s is served twice", version, path)
	}
	byPath[path] = storage
	return nil
}

// Start registers a hook. Hooks run one after the other, in the order in which
// the kinds were installed; a failing hook stops the server. The server already
// answers requests while they run, but is not ready: a kind that cannot serve
// before its hook has run must say so itself, with a ServiceUnavailable error.
func (r *Resources) Start(name string, run func(context.Context) error) {
	r.hooks = append(r.hooks, Hook{Name: name, Run: run})
}

// Hooks are the registered hooks in the order to run them.
func (r *Resources) Hooks() []Hook { return r.hooks }

// Admit registers an admission plugin, which sees the writes of every kind.
func (r *Resources) Admit(plugin admission.Interface) {
	r.plugins = append(r.plugins, plugin)
}

// Admission is all registered plugins as one.
func (r *Resources) Admission() admission.Interface {
	return admission.NewChainHandler(r.plugins...)
}

// GroupVersions are the group versions that have resources, in the order in
// which they were first named.
func (r *Resources) GroupVersions() []schema.GroupVersion { return r.order }

// Serves tells whether a group version has a resource.
func (r *Resources) Serves(version schema.GroupVersion, path string) bool {
	_, ok := r.storage[version][path]
	return ok
}

// Storage is what a group version serves, by path.
func (r *Resources) Storage(version schema.GroupVersion) map[string]rest.Storage {
	return r.storage[version]
}

// Client is a typed client over a Loopback configuration.
func Client(loopback *restclient.Config) (kubernetes.Interface, error) {
	client, err := kubernetes.NewForConfig(loopback)
	if err != nil {
		return nil, fmt.Errorf("make the server's client of itself: %w", err)
	}
	return client, nil
}
