package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"viaduct.dev/viaduct/internal/cluster/link"
)

// A connection to an upstream server has so long to be made.
const dialTimeout = 2 * time.Second

// dial opens a socket in the host's network namespace for a node that has no
// way out, to one of the upstream DNS servers and to nothing else.
func (s *supervisor) dial(ctx context.Context, d link.Dial) (*os.File, error) {
	servers, err := s.cfg.Spec.Upstreams()
	if err != nil {
		return nil, err
	}
	allowed := slices.ContainsFunc(servers, func(a netip.AddrPort) bool { return a.String() == d.Address })
	if !allowed || d.Network != "udp" && d.Network != "tcp" {
		return nil, fmt.Errorf("%s %s is no upstream DNS server of this cluster", d.Network, d.Address)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, d.Network, d.Address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	file, ok := conn.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, errors.New("the connection has no descriptor")
	}
	return file.File()
}

// answerDial opens the socket and hands it over.
func (s *supervisor) answerDial(ctx context.Context, l *link.Conn, d link.Dial) {
	answer := link.Dialled{ID: d.ID}
	file, err := s.dial(ctx, d)
	if err != nil {
		answer.Error = err.Error()
		_ = l.Send(link.Message{Dialled: &answer}) // its end is seen by listen
		return
	}
	defer file.Close()
	_ = l.Send(link.Message{Dialled: &answer}, file)
}
