package node

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"viaduct.dev/viaduct/internal/cluster/link"
)

// everyNode starts the roles that every node has, and those of the first.
func (p *process) everyNode(ctx context.Context, all *errgroup.Group, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	if p.number == 1 {
		all.Go(func() error { return p.publish(ctx, factory) })
	}
	_ = p.link.Send(link.Message{Ready: true}) // its end is seen by listen
	all.Go(func() error { return p.rest(ctx) })
	return nil
}

// quietAfter is when what only the start has needed is given back.
const quietAfter = 5 * time.Second

// rest gives memory back when the start is over.
func (p *process) rest(ctx context.Context) error {
	select {
	case <-time.After(quietAfter):
	case <-ctx.Done():
		return nil
	}
	if err := settleMemory(); err != nil {
		p.log.Warn("the start's memory stays", "err", err)
	}
	return nil
}
