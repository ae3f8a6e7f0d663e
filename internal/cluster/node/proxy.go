package node

import (
	"k8s.io/client-go/informers"

	"viaduct.dev/viaduct/internal/proxy"
)

// newProxy makes the node's proxy, which carries Services by nftables.
func (p *process) newProxy(factory informers.SharedInformerFactory) *proxy.Proxy {
	return proxy.New(proxy.Config{
		NodeName:     p.name,
		Informers:    factory,
		Prepare:      true,
		NodeIPs:      p.spec.NodeAddresses(p.number),
		Masquerade:   p.spec.NodeAddresses(p.number),
		ClusterCIDRs: p.spec.ClusterCIDRs,
		ServiceCIDRs: p.spec.ServiceCIDRs,
		Log:          p.log.With("part", "proxy"),
	})
}
