package relay

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// A flow that is silent for so long is forgotten, as conntrack does.
	idleTimeout = time.Minute
	maxDatagram = 64 << 10
	// maxFlows bounds the descriptors and the memory that callers can make us use.
	maxFlows = 1024
)

// UDP carries datagrams until ctx ends or the socket is closed. Each caller has
// a flow of its own.
func UDP(ctx context.Context, conn *net.UDPConn, dial Dial) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	r := &udpRelay{conn: conn, dial: dial, flows: map[netip.AddrPort]net.Conn{}}
	defer r.all.Wait()
	defer r.closeAll()
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			cancel()
			return
		}
		if flow := r.flow(ctx, from); flow != nil {
			_ = flow.SetReadDeadline(time.Now().Add(idleTimeout))
			// A refused datagram is reported on the next write; UDP may lose it.
			_, _ = flow.Write(buf[:n])
		}
	}
}

type udpRelay struct {
	conn *net.UDPConn
	dial Dial
	all  sync.WaitGroup

	lock  sync.Mutex // guards flows
	flows map[netip.AddrPort]net.Conn
}

// flow finds or makes the flow of a caller; nil means that the datagram is lost.
func (r *udpRelay) flow(ctx context.Context, from netip.AddrPort) net.Conn {
	r.lock.Lock()
	defer r.lock.Unlock()
	if f, ok := r.flows[from]; ok {
		return f
	}
	if len(r.flows) >= maxFlows {
		return nil
	}
	f, err := r.dial(ctx) // connecting a UDP socket does not wait
	if err != nil {
		return nil
	}
	r.flows[from] = f
	r.all.Go(func() { r.answers(from, f) })
	return f
}

// answers carries what comes back, until the flow is idle or closed.
func (r *udpRelay) answers(from netip.AddrPort, f net.Conn) {
	buf := make([]byte, maxDatagram)
	for {
		_ = f.SetReadDeadline(time.Now().Add(idleTimeout))
		n, err := f.Read(buf)
		if err != nil {
			break
		}
		if _, err := r.conn.WriteToUDPAddrPort(buf[:n], from); err != nil {
			break
		}
	}
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.flows[from] == f {
		delete(r.flows, from)
	}
	f.Close()
}

func (r *udpRelay) closeAll() {
	r.lock.Lock()
	defer r.lock.Unlock()
	for _, f := range r.flows {
		f.Close()
	}
}
