package proxy

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"viaduct.dev/viaduct/internal/proxy/metrics"
	"viaduct.dev/viaduct/internal/proxy/nodeports"
	"viaduct.dev/viaduct/internal/servicetable"
)

// relayLoopback offers node ports on loopback, too. It opens sockets in the
// network namespace of the process.
func (p *Proxy) relayLoopback(ctx context.Context, all *errgroup.Group) {
	p.relay = nodeports.New(nodeports.Config{
		Changed: func(open [2]int) {
			p.cfg.Metrics.Listeners(corev1.IPv4Protocol, open[0])
			p.cfg.Metrics.Listeners(corev1.IPv6Protocol, open[1])
		},
		Refused: func(f servicetable.Frontend, err error) {
			family := corev1.IPv6Protocol
			if f.Addr.Is4() {
				family = corev1.IPv4Protocol
			}
			p.cfg.Metrics.ListenerRefused(family)
			p.note(note{reason: "NodePortNotOnLoopback", text: fmt.Sprintf("node port %d/%s is not offered on loopback: %v", f.Port, f.Protocol, err)})
		},
		Log: p.cfg.Log,
	})
	all.Go(func() error { return p.relay.Run(ctx) })
}

// dropsWait bounds what a reader of metrics waits for the kernel.
const dropsWait = 2 * time.Second

// drops asks the kernel, by the goroutine that talks to it, what policies dropped.
func (p *Proxy) drops(ctx context.Context) ([]metrics.Drop, error) {
	ctx, cancel := context.WithTimeout(ctx, dropsWait)
	defer cancel()
	var internal, external uint64
	var err error
	done := make(chan struct{})
	ask := func(k *plane) {
		defer close(done)
		internal, external, err = k.sink.Dropped()
	}
	select {
	case p.asks <- ask:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	<-done
	return []metrics.Drop{{Policy: "internal", Packets: internal}, {Policy: "external", Packets: external}}, err
}
