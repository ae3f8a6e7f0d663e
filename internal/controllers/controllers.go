package controllers

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"

	"viaduct.dev/viaduct/internal/controllers/clusterdns"
	"viaduct.dev/viaduct/internal/controllers/deployment"
	"viaduct.dev/viaduct/internal/controllers/endpointslice"
	"viaduct.dev/viaduct/internal/controllers/garbage"
	"viaduct.dev/viaduct/internal/controllers/loadbalancer"
	"viaduct.dev/viaduct/internal/controllers/namespace"
	"viaduct.dev/viaduct/internal/controllers/nodeipam"
	"viaduct.dev/viaduct/internal/controllers/nodelife"
	"viaduct.dev/viaduct/internal/controllers/replicaset"
	"viaduct.dev/viaduct/internal/controllers/scheduler"
	"viaduct.dev/viaduct/internal/controllers/serviceaccount"
)

// Config is what the controllers need. The clients should have no rate limit.
type Config struct {
	Client    kubernetes.Interface
	Metadata  metadata.Interface
	Informers informers.SharedInformerFactory
	// ClusterCIDRs are the ranges of Pod addresses, the primary family first;
	// NodeCIDRMaskSizes are the prefix lengths of a node's part of each.
	ClusterCIDRs      []netip.Prefix
	NodeCIDRMaskSizes []int
	// LoadBalancerPools are the ranges of load-balancer addresses.
	LoadBalancerPools []netip.Prefix
	// ClusterDNS are the addresses of the Service kube-system/kube-dns, the
	// primary family first; without any there is no such Service.
	ClusterDNS []netip.Addr
	// NodeGracePeriod is how long a node may be silent; 0 means 40 s.
	NodeGracePeriod time.Duration
	Log             *slog.Logger
}

// Run runs every controller and the scheduler until ctx ends, and waits for
// them. An error of one ends all.
func Run(ctx context.Context, cfg Config) error {
	if len(cfg.ClusterCIDRs) != len(cfg.NodeCIDRMaskSizes) {
		return fmt.Errorf("controllers: %d cluster CIDRs and %d mask sizes", len(cfg.ClusterCIDRs), len(cfg.NodeCIDRMaskSizes))
	}
	events := record.NewBroadcaster(record.WithContext(ctx))
	defer events.Shutdown()
	events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: cfg.Client.CoreV1().Events("")})
	recorder := func(component string) record.EventRecorder {
		return events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})
	}
	var ranges []nodeipam.Range
	for i, c := range cfg.ClusterCIDRs {
		ranges = append(ranges, nodeipam.Range{Cluster: c, NodeBits: cfg.NodeCIDRMaskSizes[i]})
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return endpointslice.Run(ctx, endpointslice.Config{Client: cfg.Client, Informers: cfg.Informers, Recorder: recorder("endpoint-slice-controller"), Log: cfg.Log})
	})
	g.Go(func() error {
		return deployment.Run(ctx, deployment.Config{Client: cfg.Client, Informers: cfg.Informers, Recorder: recorder("deployment-controller"), Log: cfg.Log})
	})
	g.Go(func() error {
		return replicaset.Run(ctx, replicaset.Config{Client: cfg.Client, Informers: cfg.Informers, Recorder: recorder("replicaset-controller"), Log: cfg.Log})
	})
	g.Go(func() error {
		return scheduler.Run(ctx, scheduler.Config{Client: cfg.Client, Informers: cfg.Informers, Recorder: recorder(corev1.DefaultSchedulerName), Log: cfg.Log})
	})
	g.Go(func() error {
		return nodeipam.Run(ctx, nodeipam.Config{Client: cfg.Client, Informers: cfg.Informers, Recorder: recorder("cidrAllocator"), Ranges: ranges, Log: cfg.Log})
	})
	g.Go(func() error {
		return nodelife.Run(ctx, nodelife.Config{Client: cfg.Client, Informers: cfg.Informers, Recorder: recorder("node-controller"), GracePeriod: cfg.NodeGracePeriod, Log: cfg.Log})
	})
	g.Go(func() error {
		return namespace.Run(ctx, namespace.Config{Client: cfg.Client, Metadata: cfg.Metadata, Informers: cfg.Informers, Log: cfg.Log})
	})
	g.Go(func() error {
		return garbage.Run(ctx, garbage.Config{Client: cfg.Client, Metadata: cfg.Metadata, Log: cfg.Log})
	})
	g.Go(func() error {
		return serviceaccount.Run(ctx, serviceaccount.Config{Client: cfg.Client, Informers: cfg.Informers, Log: cfg.Log})
	})
	g.Go(func() error {
		return loadbalancer.Run(ctx, loadbalancer.Config{Client: cfg.Client, Informers: cfg.Informers, Recorder: recorder("service-controller"), Pools: cfg.LoadBalancerPools, Log: cfg.Log})
	})
	if len(cfg.ClusterDNS) > 0 {
		g.Go(func() error {
			return clusterdns.Run(ctx, clusterdns.Config{Client: cfg.Client, Informers: cfg.Informers, Addresses: cfg.ClusterDNS, Log: cfg.Log})
		})
	}
	return g.Wait()
}
