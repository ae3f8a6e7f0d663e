package node

import (
	"context"
	"net/netip"

	"k8s.io/client-go/informers"

	"viaduct.dev/viaduct/internal/dns"
	"viaduct.dev/viaduct/internal/dns/nodelocal"
	"viaduct.dev/viaduct/internal/proxy"
)

const dnsPort = 53

// dns answers the cluster's names: at the cluster's DNS addresses, which the
// node holds itself, and at the node's own, for nodes whose server is away.
func (p *process) dns(ctx context.Context, factory informers.SharedInformerFactory, services *proxy.Proxy) error {
	// Start has made sure that this is not the host's own namespace.
	if err := nodelocal.Assign(p.spec.DNSAddresses(), true); err != nil {
		return err
	}
	upstreams, err := p.spec.Upstreams()
	if err != nil {
		return err
	}
	var own, listen []netip.AddrPort
	for _, a := range p.spec.DNSAddresses() {
		own = append(own, netip.AddrPortFrom(a, dnsPort))
	}
	listen = append(listen, own...)
	for _, a := range p.spec.NodeAddresses(p.number) {
		listen = append(listen, netip.AddrPortFrom(a, dnsPort))
	}
	return dns.Run(ctx, dns.Config{
		Informers:    factory,
		Domain:       p.spec.Domain,
		Listen:       listen,
		ServiceCIDRs: p.spec.ServiceCIDRs,
		PodCIDRs:     p.spec.ClusterCIDRs,
		Upstreams:    upstreams,
		Dial:         p.outside.Dial,
		// While this server answers, the cluster's DNS addresses are no Service
		// here; while it does not, the Service leads to another node's.
		OnListening: func(up bool) {
			if !up {
				own = nil
			}
			services.SetLocal(own)
		},
		Log: p.log.With("part", "dns"),
	})
}
