package announce

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/ndp"
)

// neighbour answers neighbour solicitations (RFC 4861) for IPv6 addresses.
type neighbour struct {
	owned
	ifi  *net.Interface
	conn *ndp.Conn
}

// linkLocalPatience is how long an interface is given to get its link-local
// address, which answers are sent from.
const linkLocalPatience = 5 * time.Second

func newNDP(ctx context.Context, ifi *net.Interface) (*neighbour, error) {
	ctx, cancel := context.WithTimeout(ctx, linkLocalPatience)
	defer cancel()
	for {
		conn, _, err := ndp.Listen(ifi, ndp.LinkLocal)
		if err == nil {
			return &neighbour{ifi: ifi, conn: conn}, nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("open an NDP socket: %w", err)
		}
	}
}

func (r *neighbour) close() {
	r.conn.Close()
	r.wg.Wait()
}

func (r *neighbour) own(ctx context.Context, now map[netip.Addr]bool) {
	added, removed := r.set(now, netip.Addr.Is6)
	for _, a := range removed {
		if group, err := ndp.SolicitedNodeMulticast(a); err == nil {
			r.conn.LeaveGroup(group)
		}
	}
	for _, a := range added {
		// Several addresses may share a group; joining it twice is no harm.
		if group, err := ndp.SolicitedNodeMulticast(a); err == nil {
			r.conn.JoinGroup(group)
		}
		r.tell(ctx, a, func() { r.advertise(a, netip.IPv6LinkLocalAllNodes(), false) })
	}
}

func (r *neighbour) serve(ctx context.Context) error {
	for {
		m, _, from, err := r.conn.ReadFrom()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			var netErr net.Error
			if errors.As(err, &netErr) {
				return fmt.Errorf("read NDP: %w", err)
			}
			continue // a message that is malformed, or of no concern
		}
		ns, ok := m.(*ndp.NeighborSolicitation)
		if !ok || !r.has(ns.TargetAddress) {
			continue
		}
		if from.IsUnspecified() { // somebody looks for duplicates: tell all
			r.advertise(ns.TargetAddress, netip.IPv6LinkLocalAllNodes(), false)
			continue
		}
		r.advertise(ns.TargetAddress, from, true)
	}
}

func (r *neighbour) advertise(target, to netip.Addr, solicited bool) {
	// One that is lost is asked for again.
	r.conn.WriteTo(&ndp.NeighborAdvertisement{
		Router: true, Solicited: solicited, Override: true, TargetAddress: target,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: r.ifi.HardwareAddr}},
	}, nil, to.WithZone(r.ifi.Name))
}
