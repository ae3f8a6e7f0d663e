package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"viaduct.dev/viaduct/internal/cluster/link"
	"viaduct.dev/viaduct/internal/relay"
)

// The kinds of ports that are offered on the host.
const (
	kindNodePort     = "NodePort"
	kindLoadBalancer = "LoadBalancer"
)

// publisher offers node ports and load-balancer ports on the host's 127.0.0.1:
// the supervisor opens the sockets, this process relays from them to itself.
type publisher struct {
	process *process
	targets targets
	relays  map[link.Port]context.CancelFunc // of what was asked for; nil until it is open
	all     sync.WaitGroup
}

// targets says where each port leads now.
type targets struct {
	mu sync.Mutex // guards at
	at map[link.Port]netip.AddrPort
}

// publish offers ports until ctx ends.
func (p *process) publish(ctx context.Context, factory informers.SharedInformerFactory) error {
	services := factory.Core().V1().Services()
	changed := make(chan struct{}, 1)
	poke := func() {
		select {
		case changed <- struct{}{}:
		default: // it will look at the newest state anyway
		}
	}
	registration, err := services.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { poke() },
		UpdateFunc: func(any, any) { poke() },
		DeleteFunc: func(any) { poke() },
	})
	if err != nil {
		return fmt.Errorf("publish ports: %w", err)
	}
	factory.Start(ctx.Done())
	if !cache.WaitFor(ctx, "", registration.HasSyncedChecker()) {
		return nil
	}
	pub := &publisher{process: p, relays: map[link.Port]context.CancelFunc{}}
	defer pub.all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for settled := false; ; {
		list, err := services.Lister().List(labels.Everything())
		if err != nil {
			return fmt.Errorf("publish ports: %w", err)
		}
		pub.want(wanted(list, p.spec.NodeAddresses(1)))
		if !settled {
			settled = true
			_ = p.link.Send(link.Message{Settled: true}) // its end is seen by listen
		}
		for again := false; !again; {
			select {
			case <-changed:
				again = true
			case o := <-p.opened:
				pub.open(ctx, o)
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// want asks for what is wanted and gives back what is not.
func (p *publisher) want(wanted map[link.Port]netip.AddrPort) {
	p.targets.mu.Lock()
	p.targets.at = wanted
	p.targets.mu.Unlock()
	for port, stop := range p.relays {
		if _, ok := wanted[port]; ok {
			continue
		}
		if stop != nil {
			stop()
		}
		delete(p.relays, port)
		_ = p.process.link.Send(link.Message{Close: &port})
	}
	for port := range wanted {
		if _, ok := p.relays[port]; !ok {
			p.relays[port] = nil
			_ = p.process.link.Send(link.Message{Open: &port})
		}
	}
}

// open starts the relay of a port that the supervisor has opened.
func (p *publisher) open(ctx context.Context, o openedOnHost) {
	if o.file == nil {
		return // the supervisor has said why
	}
	defer o.file.Close()
	if stop, asked := p.relays[o.Port]; !asked || stop != nil {
		return
	}
	ctx, stop := context.WithCancel(ctx)
	run, err := p.relay(o.Port, o.file)
	if err != nil {
		stop()
		p.process.log.Error("offer a port on the host", "service", o.Service, "err", err)
		return
	}
	p.relays[o.Port] = stop
	p.all.Go(func() { defer stop(); run(ctx) })
}

// relay is what carries a port's traffic.
func (p *publisher) relay(port link.Port, file *os.File) (func(context.Context), error) {
	dial := func(network string) relay.Dial {
		return func(ctx context.Context) (net.Conn, error) {
			p.targets.mu.Lock()
			to, ok := p.targets.at[port]
			p.targets.mu.Unlock()
			if !ok {
				return nil, fmt.Errorf("%s is gone", port.Service)
			}
			return (&net.Dialer{}).DialContext(ctx, network, to.String())
		}
	}
	if port.Protocol == string(corev1.ProtocolTCP) {
		l, err := net.FileListener(file)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) { relay.TCP(ctx, l, dial("tcp")) }, nil
	}
	c, err := net.FilePacketConn(file)
	if err != nil {
		return nil, err
	}
	udp, ok := c.(*net.UDPConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("a %T is no UDP socket", c)
	}
	return func(ctx context.Context) { relay.UDP(ctx, udp, dial("udp")) }, nil
}

// wanted is every port that Services want to have on the host, and where it
// leads inside.
func wanted(services []*corev1.Service, node []netip.Addr) map[link.Port]netip.AddrPort {
	all := map[link.Port]netip.AddrPort{}
	for _, s := range services {
		for _, port := range s.Spec.Ports {
			protocol := string(port.Protocol)
			if protocol != string(corev1.ProtocolTCP) && protocol != string(corev1.ProtocolUDP) {
				continue
			}
			name := port.Name
			if name == "" {
				name = fmt.Sprint(port.Port)
			}
			key := link.Port{Service: s.Namespace + "/" + s.Name + ":" + name, Protocol: protocol}
			if at, ok := ofFamily(node, s.Spec.IPFamilies); ok && port.NodePort != 0 {
				key.Kind, key.Port = kindNodePort, uint16(port.NodePort)
				all[key] = netip.AddrPortFrom(at, key.Port)
			}
			if at, ok := balancer(s); ok {
				key.Kind, key.Port = kindLoadBalancer, uint16(port.Port)
				all[key] = netip.AddrPortFrom(at, key.Port)
			}
		}
	}
	return all
}

// ofFamily is the address of a Service's first family.
func ofFamily(addrs []netip.Addr, families []corev1.IPFamily) (netip.Addr, bool) {
	for _, a := range addrs {
		if len(families) == 0 || a.Is6() == (families[0] == corev1.IPv6Protocol) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// balancer is the first address that a Service's load balancer has.
func balancer(s *corev1.Service) (netip.Addr, bool) {
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return netip.Addr{}, false
	}
	for _, ingress := range s.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(ingress.IP); err == nil {
			return a, true
		}
	}
	return netip.Addr{}, false
}
