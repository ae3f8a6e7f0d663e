package node

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// role is one of the parts that run on a node. It blocks until its context ends.
type role struct {
	name string
	run  func(context.Context) error
}

// everyNode starts the roles that every node has, and those of the first.
func (p *process) everyNode(ctx context.Context, all *errgroup.Group, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	services := p.newProxy(client, factory)
	roles := []role{
		{"agent", func(ctx context.Context) error { return p.agent(ctx, client, factory) }},
		{"proxy", services.Run},
		{"dns", func(ctx context.Context) error { return p.dns(ctx, factory, services) }},
		{"announce", func(ctx context.Context) error { return p.announce(ctx, factory) }},
		{"readiness", func(ctx context.Context) error { return p.awaitReady(ctx, factory) }},
	}
	if p.number == 1 {
		roles = append(roles,
			role{"controllers", func(ctx context.Context) error { return p.controllers(ctx, config, client, factory) }},
			role{"cluster DNS", func(ctx context.Context) error { return p.clusterDNS(ctx, client, factory) }},
			role{"publisher", func(ctx context.Context) error { return p.publish(ctx, factory) }},
		)
	}
	for _, r := range roles {
		all.Go(func() error {
			if err := r.run(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			return nil
		})
	}
	return nil
}

// quietAfter is how long after the node was ready what only the start has
// needed is given back.
const quietAfter = 5 * time.Second

// rest gives memory back when the start is over.
func (p *process) rest(ctx context.Context) {
	select {
	case <-time.After(quietAfter):
	case <-ctx.Done():
		return
	}
	if err := settleMemory(); err != nil {
		p.log.Warn("the start's memory stays", "err", err)
	}
}
