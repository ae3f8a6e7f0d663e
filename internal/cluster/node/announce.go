package node

import (
	"context"

	"k8s.io/client-go/informers"

	"viaduct.dev/viaduct/internal/announce"
	"viaduct.dev/viaduct/internal/cluster/fabric"
)

// announce answers for load-balancer addresses on the nodes' network.
func (p *process) announce(ctx context.Context, factory informers.SharedInformerFactory) error {
	return announce.Run(ctx, announce.Config{
		NodeName:  p.name,
		Interface: fabric.Uplink,
		Informers: factory,
		Pools:     p.spec.LoadBalancerRanges,
		Log:       p.log.With("part", "announce"),
	})
}
