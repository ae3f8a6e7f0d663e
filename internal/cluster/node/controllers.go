package node

import (
	"context"
	"fmt"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"viaduct.dev/viaduct/internal/controllers"
	"viaduct.dev/viaduct/internal/controllers/clusterdns"
)

// controllers runs the loops of the control plane, and the scheduler.
func (p *process) controllers(ctx context.Context, config *rest.Config, client kubernetes.Interface, factory informers.SharedInformerFactory) error {
	objects, err := metadata.NewForConfig(metadata.ConfigFor(config))
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	return controllers.Run(ctx, controllers.Config{
		Client:            client,
		Metadata:          objects,
		Informers:         factory,
		ClusterCIDRs:      p.spec.ClusterCIDRs,
		NodeCIDRMaskSizes: p.spec.NodeCIDRMaskSizes(),
		LoadBalancerPools: p.spec.LoadBalancerRanges,
		Log:               p.log.With("part", "controllers"),
	})
}

// clusterDNS keeps the Service by which the DNS servers of all nodes are one.
func (p *process) clusterDNS(ctx context.Context, client kubernetes.Interface, factory informers.SharedInformerFactory) error {
	return clusterdns.Run(ctx, clusterdns.Config{
		Client:    client,
		Informers: factory,
		Addresses: p.spec.DNSAddresses(),
		Log:       p.log.With("part", "clusterdns"),
	})
}
