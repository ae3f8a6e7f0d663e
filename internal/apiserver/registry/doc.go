// Package registry turns the description of a kind into its REST storage.
//
// The one idea: what all kinds share is written once, here, and a kind is a
// value of type Kind that says only what is particular about it. A kind lives in
// a package of its own below this one, whose Install function the server lists
// in internal/apiserver/kinds.go. The smallest one (see package configmap for a
// whole one):
//
//	func Install(env *registry.Env, r *registry.Resources) error {
//		return registry.Install(env, r, registry.Kind[*corev1.Secret]{
//			Version: corev1.SchemeGroupVersion, Resource: "secrets", Singular: "secret", Kind: "Secret",
//			New:     func() *corev1.Secret { return &corev1.Secret{} },
//			NewList: func() runtime.Object { return &corev1.SecretList{} },
//			Columns: columns(),             // the table that kubectl prints after NAME
//			Default: setDefaults,           // func(*corev1.Secret)
//			Validate: validate,             // func(ctx, *corev1.Secret) field.ErrorList
//			ValidateUpdate: validateUpdate, // func(ctx, new, old *corev1.Secret) field.ErrorList
//		})
//	}
//
// Status: set Kind.Status to &registry.Status[T]{}; then <resource>/status is
// served, each door ignores the other's half (Spec and Status by name), and
// server-side apply is told so. CountsGeneration belongs to kinds whose
// controllers compare status.observedGeneration.
//
// Allocation: make the store first and set the hooks of the embedded
// k8s.io/apiserver store before AddTo. A hook reserves, and returns how to undo
// it if the write fails; with options.DryRun it must not reserve.
//
//	store, err := registry.NewStore(env, kind)
//	store.BeginCreate = func(ctx context.Context, o runtime.Object, options *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
//		service := o.(*corev1.Service)
//		...
//		return func(ctx context.Context, success bool) { if !success { release() } }, nil
//	}
//	store.BeginUpdate = ...  // not called for the status
//	store.AfterDelete = ...  // called when the object has really gone
//	r.Start("load-cluster-ips", func(ctx context.Context) error { ... })
//	return store.AddTo(r)
//
// Subresources with REST of their own are any rest.Storage, added by its path:
//
//	r.Add(corev1.SchemeGroupVersion, "pods/log", &logREST{...}) // rest.GetterWithOptions, rest.Connecter, ...
//
// The query of their URL is read into the options type by package scheme, which
// knows those of Pods.
//
// Another kind's objects are read through Env.Loopback, the server's client of
// itself, from a start hook on. Errors are those of
// k8s.io/apimachinery/pkg/api/errors; they reach kubectl as they are.
package registry
