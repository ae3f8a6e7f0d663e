// Package apiserver serves the Kubernetes API of a cluster: k8s.io/apiserver
// over an etcd in the same process.
//
// The one idea: kinds are a list (kinds.go), and each is a value of
// registry.Kind in a package of its own; everything else is wiring that no kind
// needs to know.
//
//	server, err := apiserver.New(ctx, apiserver.Config{DataDir: dir, Listeners: listeners, ...})
//	go func() { failed <- server.Run(ctx) }()
//	<-server.Ready()
//	client, err := kubernetes.NewForConfig(server.ClientConfig())
//
// A request on its way, from the outside in:
//
//	listener.go   several listeners as one; transport.go, for clients in the process
//	auth.go       who asks, and may he
//	              k8s.io/apiserver's filters, codecs, patch and apply
//	registry/     what is particular about a kind; admission (registry/namespace)
//	store/        the watch cache, etcd, the disk
//
// apiserver.go says in which order all that starts and stops; kubernetes.go
// makes the Service default/kubernetes. Not here: CustomResourceDefinitions,
// role-based access, tokens, webhooks.
package apiserver
