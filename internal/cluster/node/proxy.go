package node

import (
	"path/filepath"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"viaduct.dev/viaduct/internal/proxy"
)

// newProxy makes the node's proxy, which carries Services by nftables.
func (p *process) newProxy(client kubernetes.Interface, factory informers.SharedInformerFactory) *proxy.Proxy {
	return proxy.New(proxy.Config{
		NodeName:     p.name,
		Client:       client,
		Informers:    factory,
		StateFile:    filepath.Join(p.dir.Node(p.name), "proxy", "table.db"),
		Prepare:      true,
		NodeIPs:      p.spec.NodeAddresses(p.number),
		Masquerade:   p.spec.NodeAddresses(p.number),
		ClusterCIDRs: p.spec.ClusterCIDRs,
		ServiceCIDRs: p.spec.ServiceCIDRs,
		Log:          p.log.With("part", "proxy"),
	})
}
