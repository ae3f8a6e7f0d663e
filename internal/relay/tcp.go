package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Dial connects to the other side.
type Dial func(ctx context.Context) (net.Conn, error)

// dialTimeout bounds how long a caller waits for a Service that does not
// answer.
const dialTimeout = 10 * time.Second

// maxConnections bounds the descriptors that callers of one listener can make us
// use. Those who come then wait in the kernel's queue.
const maxConnections = 4096

// TCP accepts connections until ctx ends or the listener is closed, and carries
// each to the other side. It returns when all have ended: ctx ends them, while
// the listener's end lets them go on.
func TCP(ctx context.Context, l net.Listener, dial Dial) {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	room := make(chan struct{}, maxConnections)
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := l.Accept()
		if err != nil {
			<-room
			var temporary interface{ Temporary() bool }
			if ctx.Err() == nil && errors.As(err, &temporary) && temporary.Temporary() { // out of descriptors
				select {
				case <-time.After(50 * time.Millisecond):
					continue
				case <-ctx.Done():
				}
			}
			return
		}
		all.Go(func() {
			defer func() { <-room }()
			carry(ctx, conn, dial)
		})
	}
}

func carry(ctx context.Context, a net.Conn, dial Dial) {
	defer a.Close()
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	b, err := dial(dialing)
	cancel()
	if err != nil {
		reset(a)
		return
	}
	defer b.Close()
	stop := context.AfterFunc(ctx, func() { a.Close(); b.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { pass(a, b) })
	both.Go(func() { pass(b, a) })
	both.Wait()
}

// pass copies one direction, and tells its end to the other side.
func pass(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if err != nil {
		reset(to)
		to.Close()
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
		return
	}
	to.Close()
}

// reset makes the connection end with RST: the caller learns that nobody was
// there, not that somebody had nothing to say.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
}
