// Package apiserver serves the Kubernetes API of a cluster: k8s.io/apiserver
// over an etcd in the same process.
//
// The one idea: kinds are a list (kinds.go), and each is a value of
// registry.Kind; everything else here is wiring that no kind needs to know.
//
//	apiserver.go   Config, New, Run: the order in which things start and stop
//	kinds.go       what is served
//	...
package apiserver
