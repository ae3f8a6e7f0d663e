package node

import (
	"context"
	"fmt"

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
	return nil
}
