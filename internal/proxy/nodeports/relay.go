// Package nodeports offers the node ports of Services on the node's own
// 127.0.0.1 and ::1, TCP and UDP, where --nodeport-addresses asks for it.
//
// The one idea: packets for a loopback address cannot be sent on by rules (over
// IPv6 not at all, over IPv4 only by weakening the kernel's checks), so a socket
// takes them and dials the same port on an address of the node that offers node
// ports. From there on the connection is as any that the node makes: policies,
// affinity and the balancing are the rules'. That is kube-proxy's way too
// (KEP-6032), which serves TCP alone and only behind a gate that is off in 1.37.
//
// What differs from a node port on another address: the endpoint does not see a
// loopback address, all callers of a port share one session affinity, and
// connections end with this process. A port that nobody serves is not listened
// at, so the kernel refuses at once. Should the last endpoint go while a caller
// connects, the caller is accepted and then reset.
package nodeports

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"viaduct.dev/viaduct/internal/relay"
	"viaduct.dev/viaduct/internal/servicetable"
)

// A port that somebody else has is tried again after so long, and ever less
// often.
const (
	retryFirst = 5 * time.Second
	retryMost  = 5 * time.Minute
)

// Loopback are the addresses on which ports are offered.
var Loopback = [2]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// Config is what a Relay needs to know.
type Config struct {
	// Net opens sockets; nil opens them here.
	Net Net
	// Changed is told how many ports are open, IPv4 first; nil tells nobody.
	Changed func(open [2]int)
	// Refused is told, once, of a port that another program has; nil only logs it.
	Refused func(f servicetable.Frontend, err error)
	Log     *slog.Logger
}

// Net opens sockets: in the process's network namespace, or in another one.
type Net interface {
	Listen(ctx context.Context, network, address string) (net.Listener, error)
	ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error)
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

type here struct {
	net.ListenConfig
	net.Dialer
}

// Relay offers node ports on loopback.
type Relay struct {
	cfg  Config
	wake chan struct{}
	all  sync.WaitGroup

	mu     sync.Mutex                     // guards what follows
	wanted map[servicetable.Frontend]bool // node ports that somebody serves
	nodes  [2]netip.Addr                  // which offers node ports, IPv4 first
}

// port is one that is open, or was to be.
type port struct {
	close func() // nil if it is not open
	again time.Time
	wait  time.Duration
}

// New returns one that offers nothing yet.
func New(cfg Config) *Relay {
	if cfg.Net == nil {
		cfg.Net = &here{}
	}
	return &Relay{cfg: cfg, wake: make(chan struct{}, 1), wanted: map[servicetable.Frontend]bool{}}
}

// SetAddresses says which addresses of the node offer node ports; the first of
// each family that is no loopback is dialled. Without one there is no relay in
// that family.
func (r *Relay) SetAddresses(addrs []netip.Addr) {
	var nodes [2]netip.Addr
	for _, a := range addrs {
		if at := &nodes[family(a)]; !at.IsValid() && !a.IsLoopback() {
			*at = a
		}
	}
	r.mu.Lock()
	changed := r.nodes != nodes
	r.nodes = nodes
	r.mu.Unlock()
	if changed {
		r.poke()
	}
}

// Replace says that the table is d now, a Snapshot.
func (r *Relay) Replace(d *servicetable.Diff) {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.wanted)
	r.follow(d)
	r.poke()
}

// Follow says that the table has changed by d.
func (r *Relay) Follow(d *servicetable.Diff) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.follow(d) {
		r.poke()
	}
}

func (r *Relay) follow(d *servicetable.Diff) (changed bool) {
	for _, c := range d.Frontends {
		f := c.Frontend
		if !f.IsNodePort() || f.Protocol != servicetable.TCP && f.Protocol != servicetable.UDP {
			continue
		}
		wanted := c.New.Internal.Verdict == servicetable.Serve
		if wanted == r.wanted[f] {
			continue
		}
		changed = true
		if wanted {
			r.wanted[f] = true
		} else {
			delete(r.wanted, f)
		}
	}
	return changed
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

func (r *Relay) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run keeps the ports open until ctx ends, and with it every connection.
func (r *Relay) Run(ctx context.Context) error {
	defer r.all.Wait()
	ports := map[servicetable.Frontend]*port{}
	for {
		next := r.settle(ctx, ports)
		var retry <-chan time.Time
		if !next.IsZero() {
			retry = time.After(time.Until(next))
		}
		select {
		case <-r.wake:
		case <-retry:
		case <-ctx.Done():
			return nil
		}
	}
}

// settle opens what is wanted and closes what is not. It says when to try again
// what could not be opened; the zero time means never.
func (r *Relay) settle(ctx context.Context, ports map[servicetable.Frontend]*port) (next time.Time) {
	shut, fresh := r.compare(ports)
	for _, f := range shut {
		if close := ports[f].close; close != nil {
			close()
		}
		delete(ports, f)
	}
	for _, f := range fresh {
		ports[f] = &port{wait: retryFirst}
	}
	var open [2]int
	for f, p := range ports {
		if p.close == nil && !time.Now().Before(p.again) {
			r.open(ctx, f, p)
		}
		if p.close != nil {
			open[family(f.Addr)]++
		} else if next.IsZero() || p.again.Before(next) {
			next = p.again
		}
	}
	if r.cfg.Changed != nil {
		r.cfg.Changed(open)
	}
	return next
}

func (r *Relay) compare(ports map[servicetable.Frontend]*port) (shut, fresh []servicetable.Frontend) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for f := range ports {
		if !r.wanted[f] || !r.nodes[family(f.Addr)].IsValid() {
			shut = append(shut, f)
		}
	}
	for f := range r.wanted {
		if ports[f] == nil && r.nodes[family(f.Addr)].IsValid() {
			fresh = append(fresh, f)
		}
	}
	return shut, fresh
}

// open listens, and relays until it is closed.
func (r *Relay) open(ctx context.Context, f servicetable.Frontend, p *port) {
	at := netip.AddrPortFrom(Loopback[family(f.Addr)], f.Port).String()
	dial := func(ctx context.Context) (net.Conn, error) { return r.dial(ctx, f) }
	var err error
	if f.Protocol == servicetable.UDP {
		err = r.openUDP(ctx, at, dial, p)
	} else {
		var l net.Listener
		if l, err = r.cfg.Net.Listen(ctx, "tcp", at); err == nil {
			// Connections go on when nobody serves the port any more.
			p.close = func() { _ = l.Close() }
			r.all.Go(func() { relay.TCP(ctx, l, dial) })
		}
	}
	if err == nil {
		return
	}
	if p.again.IsZero() && ctx.Err() == nil {
		r.cfg.Log.Warn("a node port cannot be offered on loopback; it is tried again", "frontend", f, "err", err)
		if r.cfg.Refused != nil {
			r.cfg.Refused(f, err)
		}
	}
	p.again, p.wait = time.Now().Add(p.wait), min(2*p.wait, retryMost)
}

func (r *Relay) openUDP(ctx context.Context, at string, dial relay.Dial, p *port) error {
	c, err := r.cfg.Net.ListenPacket(ctx, "udp", at)
	if err != nil {
		return err
	}
	conn, ok := c.(*net.UDPConn)
	if !ok {
		_ = c.Close()
		return fmt.Errorf("a %T is no UDP socket", c)
	}
	p.close = func() { _ = conn.Close() }
	r.all.Go(func() { relay.UDP(ctx, conn, dial) })
	return nil
}

// dial connects to the node port as the node itself does.
func (r *Relay) dial(ctx context.Context, f servicetable.Frontend) (net.Conn, error) {
	r.mu.Lock()
	node := r.nodes[family(f.Addr)]
	r.mu.Unlock()
	if !node.IsValid() {
		return nil, fmt.Errorf("%s: the node has no such address", f)
	}
	return r.cfg.Net.DialContext(ctx, f.Protocol.String(), netip.AddrPortFrom(node, f.Port).String())
}
