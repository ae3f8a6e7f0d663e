package dns

import (
	"context"
	"net"
	"time"

	mdns "github.com/miekg/dns"
)

const (
	// upstreamTimeout bounds one try of one upstream.
	upstreamTimeout = 2 * time.Second
	// forwardTimeout bounds all of them: resolvers give up after five seconds.
	forwardTimeout = 4 * time.Second
)

// forward asks the upstreams, one after the other, until one answers.
func (s *server) forward(q, failure *mdns.Msg, network string) *mdns.Msg {
	ctx, cancel := context.WithTimeout(context.Background(), forwardTimeout)
	defer cancel()
	for _, up := range s.cfg.Upstreams {
		answer, err := s.ask(ctx, q, network, up.String())
		if err == nil {
			answer.Id = q.Id
			return answer
		}
		s.cfg.Log.Debug("an upstream did not answer", "upstream", up, "name", q.Question[0].Name, "err", err)
		if ctx.Err() != nil {
			break
		}
	}
	failure.Rcode = mdns.RcodeServerFailure
	return failure
}

func (s *server) ask(ctx context.Context, q *mdns.Msg, network, upstream string) (*mdns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	dial := s.cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	conn, err := dial(ctx, network, upstream)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	client := &mdns.Client{Net: network, UDPSize: 4096}
	query := q.Copy()
	query.Id = mdns.Id()
	answer, _, err := client.ExchangeWithConnContext(ctx, query, &mdns.Conn{Conn: conn, UDPSize: 4096})
	return answer, err
}
