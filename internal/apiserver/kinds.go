package apiserver

import (
	"viaduct.dev/viaduct/internal/apiserver/registry"
	"viaduct.dev/viaduct/internal/apiserver/registry/accessreview"
	"viaduct.dev/viaduct/internal/apiserver/registry/configmap"
	"viaduct.dev/viaduct/internal/apiserver/registry/deployment"
	"viaduct.dev/viaduct/internal/apiserver/registry/endpoints"
	"viaduct.dev/viaduct/internal/apiserver/registry/endpointslice"
	"viaduct.dev/viaduct/internal/apiserver/registry/event"
	"viaduct.dev/viaduct/internal/apiserver/registry/ipaddress"
	"viaduct.dev/viaduct/internal/apiserver/registry/lease"
	"viaduct.dev/viaduct/internal/apiserver/registry/namespace"
	"viaduct.dev/viaduct/internal/apiserver/registry/node"
	"viaduct.dev/viaduct/internal/apiserver/registry/pod"
	"viaduct.dev/viaduct/internal/apiserver/registry/replicaset"
	"viaduct.dev/viaduct/internal/apiserver/registry/secret"
	"viaduct.dev/viaduct/internal/apiserver/registry/service"
	"viaduct.dev/viaduct/internal/apiserver/registry/serviceaccount"
	"viaduct.dev/viaduct/internal/apiserver/registry/servicecidr"
)

// kinds is everything that the server serves, in the order in which it is
// installed and its start hooks run. To add a kind, add its line.
func kinds() []registry.Installer {
	return []registry.Installer{
		namespace.Install,
		configmap.Install,
		serviceaccount.Install,
		secret.Install,
		node.Install,
		lease.Install,
		event.Install,
		endpoints.Install,
		pod.Install,
		replicaset.Install,
		deployment.Install,
		endpointslice.Install,
		ipaddress.Install,
		servicecidr.Install,
		service.Install,
		accessreview.Install,
	}
}
