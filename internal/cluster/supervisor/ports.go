package supervisor

import (
	"cmp"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"

	"viaduct.dev/viaduct/internal/cluster/control"
	"viaduct.dev/viaduct/internal/cluster/link"
)

// ports are the sockets on 127.0.0.1. They stay open while the first node's
// process is away: connections then wait in the backlog.
type ports struct {
	log *slog.Logger

	mu       sync.Mutex // guards what follows
	sockets  map[link.Port]*socket
	sessions int
}

type socket struct {
	file     *os.File
	hostPort uint16
	err      string
	session  int // of the process that asked for it last
}

func newPorts(log *slog.Logger) *ports {
	return &ports{log: log, sockets: map[link.Port]*socket{}}
}

// session numbers the lives of nodes' processes.
func (p *ports) session() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sessions++
	return p.sessions
}

// open opens a port, or finds it open from an earlier session. The file stays
// the ports' own.
func (p *ports) open(port link.Port, session int) (link.Opened, *os.File) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sockets[port]
	if s == nil || s.file == nil {
		s = listenOnHost(port)
		if s.err != "" {
			p.log.Error("offer a port on the host", "service", port.Service, "port", port.Port, "err", s.err)
		}
		p.sockets[port] = s
	}
	s.session = session
	return link.Opened{Port: port, HostPort: s.hostPort, Error: s.err}, s.file
}

// listenOnHost takes the same number where it is free, else another.
func listenOnHost(port link.Port) *socket {
	var first error
	for _, number := range []uint16{port.Port, 0} {
		file, at, err := listenOn(port.Protocol, number)
		if err == nil {
			return &socket{file: file, hostPort: at}
		}
		first = cmp.Or(first, err)
	}
	return &socket{err: first.Error()}
}

func listenOn(protocol string, number uint16) (*os.File, uint16, error) {
	address := fmt.Sprintf("127.0.0.1:%d", number)
	switch protocol {
	case "TCP":
		l, err := net.Listen("tcp4", address)
		if err != nil {
			return nil, 0, err
		}
		defer l.Close()
		f, err := l.(*net.TCPListener).File()
		return f, uint16(l.Addr().(*net.TCPAddr).Port), err
	case "UDP":
		c, err := net.ListenPacket("udp4", address)
		if err != nil {
			return nil, 0, err
		}
		defer c.Close()
		f, err := c.(*net.UDPConn).File()
		return f, uint16(c.LocalAddr().(*net.UDPAddr).Port), err
	}
	return nil, 0, fmt.Errorf("protocol %s is not offered on the host", protocol)
}

func (p *ports) close(port link.Port) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(port)
}

// closeOlder closes what no process of this session or a later one has asked
// for.
func (p *ports) closeOlder(session int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for port, s := range p.sockets {
		if s.session < session {
			p.drop(port)
		}
	}
}

func (p *ports) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for port := range p.sockets {
		p.drop(port)
	}
}

// drop closes one; the caller holds mu.
func (p *ports) drop(port link.Port) {
	if s := p.sockets[port]; s != nil && s.file != nil {
		s.file.Close()
	}
	delete(p.sockets, port)
}

// list describes the ports, sorted by Service.
func (p *ports) list() []control.Port {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := []control.Port{}
	for port, s := range p.sockets {
		all = append(all, control.Port{Service: port.Service, Kind: port.Kind, Protocol: port.Protocol, Port: port.Port, HostPort: s.hostPort, Error: s.err})
	}
	slices.SortFunc(all, func(a, b control.Port) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Protocol, b.Protocol))
	})
	return all
}
