package announce

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// Config is what a node's announcer needs.
type Config struct {
	NodeName string
	// Interface is the node's interface on the network of the addresses.
	Interface string
	Informers informers.SharedInformerFactory
	// Pools are the ranges that may be answered for: what else a status tells is
	// somebody else's.
	Pools []netip.Prefix
	Log   *slog.Logger
}

// Run answers until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	ifi, err := net.InterfaceByName(cfg.Interface)
	if err != nil {
		return fmt.Errorf("announce on %s: %w", cfg.Interface, err)
	}
	v4, err := newARP(ifi)
	if err != nil {
		return fmt.Errorf("announce on %s: %w", cfg.Interface, err)
	}
	v6, err := newNDP(ctx, ifi)
	if err != nil {
		v4.close()
		return fmt.Errorf("announce on %s: %w", cfg.Interface, err)
	}
	changed := make(chan struct{}, 1)
	poke := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { poke() }, UpdateFunc: func(any, any) { poke() }, DeleteFunc: func(any) { poke() },
	}
	var synced []cache.DoneChecker
	for _, i := range []cache.SharedIndexInformer{
		cfg.Informers.Core().V1().Services().Informer(), cfg.Informers.Core().V1().Nodes().Informer(),
		cfg.Informers.Discovery().V1().EndpointSlices().Informer(),
	} {
		reg, err := i.AddEventHandler(handler)
		if err != nil {
			v4.close()
			v6.close()
			return fmt.Errorf("announce: %w", err)
		}
		synced = append(synced, reg.HasSyncedChecker())
	}
	cfg.Informers.Start(ctx.Done())

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return v4.serve(ctx) })
	g.Go(func() error { return v6.serve(ctx) })
	g.Go(func() error {
		defer v4.close()
		defer v6.close()
		if !cache.WaitFor(ctx, "", synced...) {
			return nil
		}
		owned := map[netip.Addr]bool{}
		for {
			want := mine(cfg)
			for _, a := range slices.SortedFunc(maps.Keys(want), netip.Addr.Compare) {
				if !owned[a] {
					cfg.Log.Info("answering for a load-balancer address", "address", a, "service", want[a])
				}
			}
			now := map[netip.Addr]bool{}
			for a := range want {
				now[a] = true
			}
			for a := range owned {
				if !now[a] {
					cfg.Log.Info("no longer answering for a load-balancer address", "address", a)
				}
			}
			owned = now
			v4.own(ctx, now)
			v6.own(ctx, now)
			select {
			case <-changed:
			case <-ctx.Done():
				return nil
			}
		}
	})
	return g.Wait()
}

// mine are the addresses that this node answers for, with their Services.
func mine(cfg Config) map[netip.Addr]string {
	core := cfg.Informers.Core().V1()
	services, _ := core.Services().Lister().List(labels.Everything()) // a lister's List never fails
	nodes, _ := core.Nodes().Lister().List(labels.Everything())
	all := map[netip.Addr]string{}
	for _, s := range services {
		if s.Spec.Type != corev1.ServiceTypeLoadBalancer || len(s.Status.LoadBalancer.Ingress) == 0 {
			continue
		}
		slices, _ := cfg.Informers.Discovery().V1().EndpointSlices().Lister().EndpointSlices(s.Namespace).List(
			labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: s.Name}))
		candidates := Candidates(s, slices, nodes)
		for _, in := range s.Status.LoadBalancer.Ingress {
			a, err := netip.ParseAddr(in.IP)
			if err != nil || ptr.Deref(in.IPMode, corev1.LoadBalancerIPModeVIP) != corev1.LoadBalancerIPModeVIP || !within(cfg.Pools, a) {
				continue
			}
			if Owner(a, candidates) == cfg.NodeName {
				all[a] = s.Namespace + "/" + s.Name
			}
		}
	}
	return all
}

func within(pools []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(pools, func(p netip.Prefix) bool { return p.Contains(a) })
}
