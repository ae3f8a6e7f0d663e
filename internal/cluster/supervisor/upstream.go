package supervisor

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"viaduct.dev/viaduct/internal/cluster/box"
)

const (
	resolvConf = "/etc/resolv.conf"
	// Each upstream server has so long, as in resolv.conf(5) but for its 5 s,
	// which is all that most callers wait altogether.
	upstreamTimeout = 2 * time.Second
	dnsHeader       = 12
	truncated       = 0x02 // of the third byte
)

// askUpstream sends a DNS query to the upstream servers, one after another,
// until one answers.
func (s *supervisor) askUpstream(ctx context.Context, query []byte) ([]byte, error) {
	if len(query) < dnsHeader {
		return nil, errors.New("not a DNS query")
	}
	servers, err := upstreams(s.cfg.Spec.DNSUpstream)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, server := range servers {
		answer, err := exchange(ctx, server, query)
		if err == nil {
			return answer, nil
		}
		errs = append(errs, fmt.Errorf("ask %s: %w", server, err))
	}
	return nil, errors.Join(errs...)
}

// upstreams are the servers that a setting means.
func upstreams(setting string) ([]netip.AddrPort, error) {
	switch setting {
	case "":
		return nil, errors.New("the cluster has no upstream DNS; see --dns-upstream")
	case box.UpstreamHost:
		f, err := os.Open(resolvConf)
		if err != nil {
			return nil, fmt.Errorf("find the host's resolvers: %w", err)
		}
		defer f.Close()
		servers := nameservers(f)
		if len(servers) == 0 {
			return nil, fmt.Errorf("find the host's resolvers: %s names none", resolvConf)
		}
		return servers, nil
	}
	return box.ParseUpstreams(setting)
}

// nameservers reads a resolv.conf.
func nameservers(r io.Reader) []netip.AddrPort {
	var all []netip.AddrPort
	for lines := bufio.NewScanner(r); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			all = append(all, netip.AddrPortFrom(a, 53))
		}
	}
	return all
}

// exchange asks one server, by UDP and, where the answer does not fit, by TCP.
func exchange(ctx context.Context, server netip.AddrPort, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	answer, err := exchangeUDP(ctx, server, query)
	if err != nil || answer[2]&truncated == 0 {
		return answer, err
	}
	return exchangeTCP(ctx, server, query)
}

func exchangeUDP(ctx context.Context, server netip.AddrPort, query []byte) ([]byte, error) {
	conn, err := dialUpstream(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		// Another query's late answer, or a forged one, is not ours.
		if n >= dnsHeader && buf[0] == query[0] && buf[1] == query[1] {
			return buf[:n], nil
		}
	}
}

func exchangeTCP(ctx context.Context, server netip.AddrPort, query []byte) ([]byte, error) {
	conn, err := dialUpstream(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	answer := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return nil, err
	}
	if len(answer) < dnsHeader {
		return nil, errors.New("the answer is too short")
	}
	return answer, nil
}

func dialUpstream(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	return conn, conn.SetDeadline(deadline)
}
