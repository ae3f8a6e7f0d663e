package planetest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// echo answers for every host: each connection and datagram is told where it
// arrived and whom it was seen from, as two address-and-port pairs.
type echo struct {
	epoll, stop int
	done        sync.WaitGroup
	at          map[int32]listener
}

type listener struct {
	where netip.AddrPort
	tcp   bool
}

func newEcho(t testing.TB, hosts []*Host) *echo {
	t.Helper()
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	must(t, err)
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	must(t, err)
	e := &echo{epoll: epoll, stop: stop, at: map[int32]listener{}}
	must(t, e.watch(stop))
	for _, h := range hosts {
		for _, a := range h.Addresses {
			for _, port := range Ports {
				for _, tcp := range []bool{true, false} {
					var fd int
					must(t, h.ns.Do(func() (err error) { fd, err = serve(netip.AddrPortFrom(a, port), tcp); return err }))
					e.at[int32(fd)] = listener{netip.AddrPortFrom(a, port), tcp}
					must(t, e.watch(fd))
				}
			}
		}
	}
	e.done.Go(e.run)
	t.Cleanup(func() {
		unix.Write(stop, binary.NativeEndian.AppendUint64(nil, 1))
		e.done.Wait()
		for fd := range e.at {
			unix.Close(int(fd))
		}
		unix.Close(stop)
		unix.Close(epoll)
	})
	return e
}

func (e *echo) watch(fd int) error {
	return unix.EpollCtl(e.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func serve(at netip.AddrPort, tcp bool) (int, error) {
	fd, err := open(at.Addr(), tcp)
	if err != nil {
		return 0, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return 0, err
	}
	if err := unix.Bind(fd, sockaddr(at)); err != nil {
		return 0, fmt.Errorf("bind %s: %w", at, err)
	}
	if tcp {
		return fd, unix.Listen(fd, 1024)
	}
	return fd, nil
}

func (e *echo) run() {
	events := make([]unix.EpollEvent, 64)
	buf := make([]byte, 64)
	for {
		n, err := unix.EpollWait(e.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			return
		}
		for i := range max(n, 0) {
			fd := int(events[i].Fd)
			if fd == e.stop {
				return
			}
			l, ok := e.at[int32(fd)]
			switch {
			case !ok: // a connection that was ended by its caller, or says something
				if k, err := unix.Read(fd, buf); err == nil && k > 0 {
					unix.Write(fd, buf[:k])
				} else if err != unix.EAGAIN {
					unix.Close(fd)
				}
			case l.tcp:
				e.accept(fd, l)
			default:
				for {
					k, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
					if err != nil {
						break
					}
					unix.Sendto(fd, append(buf[:k:k], greeting(l.where, from)...), unix.MSG_DONTWAIT, from)
				}
			}
		}
	}
}

// accept greets everybody who waits. A connection stays until its caller ends it.
func (e *echo) accept(fd int, l listener) {
	for {
		c, from, err := unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		unix.Write(c, greeting(l.where, from))
		e.watch(c)
	}
}

func greeting(where netip.AddrPort, from unix.Sockaddr) []byte {
	return fmt.Appendf(nil, "%s %s", where, addrPort(from))
}

// open makes a socket of the thread's namespace.
func open(family netip.Addr, tcp bool) (int, error) {
	domain, kind := unix.AF_INET, unix.SOCK_DGRAM
	if family.Is6() {
		domain = unix.AF_INET6
	}
	if tcp {
		kind = unix.SOCK_STREAM
	}
	return unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(s unix.Sockaddr) netip.AddrPort {
	switch s := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(s.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(s.Addr), uint16(s.Port))
	}
	return netip.AddrPort{}
}
