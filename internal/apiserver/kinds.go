package apiserver

import (
	"viaduct.dev/viaduct/internal/apiserver/registry"
	"viaduct.dev/viaduct/internal/apiserver/registry/configmap"
	"viaduct.dev/viaduct/internal/apiserver/registry/namespace"
)

// kinds is everything that the server serves, in the order in which it is
// installed and its start hooks run. To add a kind, add its line.
func kinds() []registry.Installer {
	return []registry.Installer{
		namespace.Install,
		configmap.Install,
	}
}
