package apiserver

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

// acceptPause is how long a listener rests when the process is out of
// descriptors.
const acceptPause = 50 * time.Millisecond

// joined is several listeners as one.
type joined struct {
	listeners []net.Listener
	conns     chan net.Conn
	closed    chan struct{}
	close     sync.Once
	accepting sync.WaitGroup
}

// join accepts from all listeners at once. With none it never accepts anything.
func join(log *slog.Logger, listeners []net.Listener) *joined {
	j := &joined{listeners: listeners, conns: make(chan net.Conn), closed: make(chan struct{})}
	for _, l := range listeners {
		j.accepting.Go(func() { j.accept(log, l) })
	}
	return j
}

func (j *joined) accept(log *slog.Logger, l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			select {
			case <-j.closed:
				return
			default:
			}
			var temporary interface{ Temporary() bool }
			if errors.As(err, &temporary) && temporary.Temporary() { // out of descriptors
				select {
				case <-time.After(acceptPause):
				case <-j.closed:
				}
				continue
			}
			log.Error("api server: a listener has ended", "address", l.Addr().String(), "err", err)
			return
		}
		select {
		case j.conns <- conn:
		case <-j.closed:
			_ = conn.Close()
			return
		}
	}
}

// Accept implements net.Listener.
func (j *joined) Accept() (net.Conn, error) {
	select {
	case conn := <-j.conns:
		return conn, nil
	case <-j.closed:
		return nil, net.ErrClosed
	}
}

// Close closes all listeners and waits for their goroutines.
func (j *joined) Close() error {
	var errs []error
	j.close.Do(func() {
		close(j.closed)
		for _, l := range j.listeners {
			errs = append(errs, l.Close())
		}
		j.accepting.Wait()
	})
	return errors.Join(errs...)
}

// Addr is the address of the first listener.
func (j *joined) Addr() net.Addr {
	if len(j.listeners) == 0 {
		return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 0}
	}
	return j.listeners[0].Addr()
}
