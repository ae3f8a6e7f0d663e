package box

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
)

// UpstreamHost is the DNSUpstream that means the host's own resolvers.
const UpstreamHost = "host"

const resolvConf = "/etc/resolv.conf"

// Upstreams are the DNS servers, as the host reaches them, that the setting
// means; none if it is empty.
func (s Spec) Upstreams() ([]netip.AddrPort, error) {
	switch s.DNSUpstream {
	case "":
		return nil, nil
	case UpstreamHost:
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
	return ParseUpstreams(s.DNSUpstream)
}

// ParseUpstreams reads a comma-separated list of DNS servers, each an address
// with or without a port.
func ParseUpstreams(list string) ([]netip.AddrPort, error) {
	var all []netip.AddrPort
	for _, s := range strings.Split(list, ",") {
		s = strings.TrimSpace(s)
		if ap, err := netip.ParseAddrPort(s); err == nil {
			all = append(all, ap)
		} else if a, err := netip.ParseAddr(s); err == nil {
			all = append(all, netip.AddrPortFrom(a, 53))
		} else {
			return nil, fmt.Errorf("%q is neither %q nor the address of a DNS server", s, UpstreamHost)
		}
	}
	return all, nil
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
