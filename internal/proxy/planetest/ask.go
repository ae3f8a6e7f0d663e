package planetest

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/proxy/oracle"
)

// Heard is what came of a packet.
type Heard struct {
	// By is the endpoint that answered, Saw whom it saw.
	By  netip.AddrPort
	Saw netip.Addr
	// Err is why nobody did: ErrSilence, ECONNREFUSED, or an unreachable's.
	Err error
}

// ErrSilence says that nothing came back in time.
var ErrSilence = errors.New("silence")

// String is such as "10.244.0.2:8080, which saw 10.244.1.2".
func (h Heard) String() string {
	if h.Err != nil {
		return h.Err.Error()
	}
	return fmt.Sprintf("%s, which saw %s", h.By, h.Saw)
}

// probe is a packet under way. Its socket is -1 when it has been heard of.
type probe struct {
	fd  int
	tcp bool
	to  unix.Sockaddr
}

// Patience is how long an answer is awaited, and how long silence is listened to
// when all that was awaited has come.
type Patience struct{ Answer, Silence time.Duration }

// Ask sends all packets at once, as connections or datagrams. It returns when all
// are answered, or those for which silence is expected alone are not.
func (w *World) Ask(packets []oracle.Packet, silence []bool, patience Patience) ([]Heard, error) {
	heard := make([]Heard, len(packets))
	probes := make([]probe, len(packets))
	byHost := map[*Host][]int{}
	for i, p := range packets {
		h := w.host(p.Source)
		if h == nil {
			return nil, fmt.Errorf("nobody calls from %s", p.Source)
		}
		byHost[h] = append(byHost[h], i)
		probes[i] = probe{fd: -1, tcp: p.Protocol == "TCP", to: sockaddr(p.To)}
	}
	defer func() {
		for _, p := range probes {
			if p.fd >= 0 {
				unix.Close(p.fd)
			}
		}
	}()
	for h, list := range byHost {
		done := make(chan error)
		h.enter <- func() {
			for _, i := range list {
				fd, err := w.call(packets[i].Source, probes[i].tcp)
				if err != nil {
					done <- err
					return
				}
				probes[i].fd = fd
			}
			done <- nil
		}
		if err := <-done; err != nil {
			return nil, err
		}
	}

	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(epoll)
	waiting, awaited := 0, 0
	heardOf := func(i int, h Heard) {
		heard[i] = probes[i].end(h)
		waiting--
		if !silence[i] {
			awaited--
		}
	}
	for i := range probes {
		p := &probes[i]
		waiting++
		if !silence[i] {
			awaited++
		}
		if err := p.start(); err != nil {
			heardOf(i, Heard{Err: err})
			continue
		}
		if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, p.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}); err != nil {
			return nil, err
		}
	}
	deadline, quiet := time.Now().Add(patience.Answer), false
	events := make([]unix.EpollEvent, 256)
	for waiting > 0 {
		if awaited == 0 && !quiet {
			deadline, quiet = time.Now().Add(patience.Silence), true
		}
		left := time.Until(deadline)
		if left <= 0 {
			break
		}
		n, err := unix.EpollWait(epoll, events, int(left.Milliseconds())+1)
		if err != nil && err != unix.EINTR {
			return nil, err
		}
		for _, e := range events[:max(n, 0)] {
			if h := probes[e.Fd].hear(); h.Err != unix.EAGAIN {
				heardOf(int(e.Fd), h)
			}
		}
	}
	for i := range probes {
		if probes[i].fd >= 0 {
			heard[i] = Heard{Err: ErrSilence}
		}
	}
	return heard, nil
}

// call opens a socket that calls from an address of the thread's namespace. Ports
// are taken in turn, so that none meets what conntrack remembers of an earlier one.
func (w *World) call(from netip.Addr, tcp bool) (int, error) {
	fd, err := open(from, tcp)
	if err != nil {
		return -1, err
	}
	for range 100 {
		w.port = max(10000, w.port+1)
		if err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(from, w.port))); err != unix.EADDRINUSE {
			break
		}
	}
	if err == nil && tcp {
		// The connection ends by RST: nothing of it lingers.
		err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("call from %s: %w", from, err)
	}
	return fd, nil
}

func (p *probe) start() error {
	if err := unix.Connect(p.fd, p.to); err != nil && err != unix.EINPROGRESS {
		return err
	}
	if p.tcp {
		return nil
	}
	_, err := unix.Write(p.fd, nil)
	if err == unix.EPERM {
		// Turned away before it left its own host: refused if that was told.
		if why, _ := unix.GetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_ERROR); why != 0 {
			return unix.Errno(why)
		}
		return ErrSilence
	}
	return err
}

func (p *probe) hear() Heard {
	buf := make([]byte, 200)
	n, err := unix.Read(p.fd, buf)
	if err != nil {
		return Heard{Err: err}
	}
	by, saw, _ := strings.Cut(string(buf[:n]), " ")
	where, err := netip.ParseAddrPort(by)
	if err != nil {
		return Heard{Err: fmt.Errorf("not an answer: %q", buf[:n])}
	}
	from, err := netip.ParseAddrPort(saw)
	return Heard{By: where, Saw: from.Addr(), Err: err}
}

func (p *probe) end(h Heard) Heard {
	unix.Close(p.fd)
	p.fd = -1
	return h
}
