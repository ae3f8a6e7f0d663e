package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"viaduct.dev/viaduct/internal/cluster/link"
)

// awaitReady tells the supervisor when this node does all that is asked of it:
// its Node is ready and the cluster's DNS answers here.
func (p *process) awaitReady(ctx context.Context, factory informers.SharedInformerFactory) error {
	begin := time.Now()
	if err := p.awaitNode(ctx, factory); err != nil {
		return err
	}
	p.step("node", begin)
	for _, server := range p.spec.DNSAddresses() {
		if err := awaitDNS(ctx, netip.AddrPortFrom(server, dnsPort), "kubernetes.default.svc."+p.spec.Domain+"."); err != nil {
			return err
		}
	}
	p.step("DNS", begin)
	_ = p.link.Send(link.Message{Ready: true}) // its end is seen by listen
	p.rest(ctx)
	return nil
}

// awaitNode waits until this node's Node is ready.
func (p *process) awaitNode(ctx context.Context, factory informers.SharedInformerFactory) error {
	ready := make(chan struct{}, 1)
	look := func(o any) {
		if n, ok := o.(*corev1.Node); ok && n.Name == p.name && readySince(n, p.began) {
			select {
			case ready <- struct{}{}:
			default:
			}
		}
	}
	informer := factory.Core().V1().Nodes().Informer()
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    look,
		UpdateFunc: func(_, o any) { look(o) },
	})
	if err != nil {
		return fmt.Errorf("wait for the node: %w", err)
	}
	defer func() { _ = informer.RemoveEventHandler(registration) }()
	factory.Start(ctx.Done())
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readySince says whether a Node was said to be ready by this process, not by
// one before it. The API keeps whole seconds.
func readySince(n *corev1.Node, began time.Time) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue && !c.LastHeartbeatTime.Time.Before(began.Truncate(time.Second))
		}
	}
	return false
}

// awaitDNS asks a server for a name until it knows it.
func awaitDNS(ctx context.Context, server netip.AddrPort, name string) error {
	query := new(dns.Msg).SetQuestion(name, dns.TypeA)
	query.RecursionDesired = false
	client := &dns.Client{Timeout: 200 * time.Millisecond}
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		answer, _, err := client.ExchangeContext(ctx, query, server.String())
		if err == nil && answer.Rcode == dns.RcodeSuccess {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}
