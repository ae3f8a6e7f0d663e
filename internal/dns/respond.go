package dns

import (
	"net/netip"
	"strings"

	mdns "github.com/miekg/dns"

	"viaduct.dev/viaduct/internal/dns/zone"
)

// respond gives the answer to a message, or nil for what deserves none.
func (s *server) respond(q *mdns.Msg, network string) *mdns.Msg {
	if q.Response {
		return nil
	}
	m := new(mdns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = len(s.cfg.Upstreams) > 0
	if o := q.IsEdns0(); o != nil {
		if o.Version() != 0 {
			m.SetEdns0(maxUDP, false)
			m.Rcode = mdns.RcodeBadVers
			return m
		}
		m.SetEdns0(maxUDP, o.Do())
	}
	switch {
	case q.Opcode != mdns.OpcodeQuery:
		m.Rcode = mdns.RcodeNotImplemented
		return m
	case len(q.Question) != 1:
		m.Rcode = mdns.RcodeFormatError
		return m
	}
	question := q.Question[0]
	if question.Qclass != mdns.ClassINET {
		m.Rcode = mdns.RcodeRefused
		return m
	}
	name := strings.ToLower(question.Name)
	switch {
	case s.zone.Contains(name):
		return s.fromZone(m, question, func(t zone.Type) zone.Answer {
			return s.read(func(z *zone.Zone) zone.Answer { return z.Answer(name, t) })
		}, s.zone.Domain())
	case strings.HasSuffix(name, ".arpa."):
		if addr, ok := zone.ReverseAddr(name); ok && s.ours(addr) {
			return s.fromZone(m, question, func(t zone.Type) zone.Answer {
				return s.read(func(z *zone.Zone) zone.Answer { return z.Reverse(name, addr, t) })
			}, arpa(addr))
		}
	}
	if len(s.cfg.Upstreams) > 0 {
		return s.forward(q, m, network)
	}
	m.Rcode = mdns.RcodeRefused
	return m
}

func (s *server) read(fn func(*zone.Zone) zone.Answer) zone.Answer {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return fn(s.zone)
}

// ours says whether the reverse name of an address is the cluster's to answer.
func (s *server) ours(addr netip.Addr) bool {
	for _, list := range [][]netip.Prefix{s.cfg.ServiceCIDRs, s.cfg.PodCIDRs} {
		for _, p := range list {
			if p.Contains(addr) {
				return true
			}
		}
	}
	return false
}

func arpa(addr netip.Addr) string {
	if addr.Is4() {
		return "in-addr.arpa."
	}
	return "ip6.arpa."
}

// fromZone fills an answer from the zone. Names are written as they were asked.
func (s *server) fromZone(m *mdns.Msg, q mdns.Question, ask func(zone.Type) zone.Answer, apex string) *mdns.Msg {
	if !s.wait() {
		m.Rcode = mdns.RcodeServerFailure
		return m
	}
	m.Authoritative = true
	if q.Qtype == mdns.TypeANY { // RFC 8482: a small answer instead of all
		m.Answer = []mdns.RR{&mdns.HINFO{Hdr: header(q.Name, mdns.TypeHINFO, ttl), Cpu: "RFC8482"}}
		if !ask(zone.A).Exists {
			m.Answer = nil
			m.Rcode = mdns.RcodeNameError
			m.Ns = []mdns.RR{s.soa(apex)}
		}
		return m
	}
	a := ask(zone.Type(q.Qtype))
	shuffle(a.Records)
	asked := strings.ToLower(q.Name)
	for _, r := range a.Records {
		m.Answer = append(m.Answer, s.record(r, asked, q.Name))
	}
	for _, r := range a.Extra {
		m.Extra = append(m.Extra, s.record(r, asked, q.Name))
	}
	if len(m.Answer) == 0 {
		m.Ns = []mdns.RR{s.soa(apex)}
		if !a.Exists {
			m.Rcode = mdns.RcodeNameError
		}
	}
	return m
}

func header(name string, rrtype uint16, seconds uint32) mdns.RR_Header {
	return mdns.RR_Header{Name: name, Rrtype: rrtype, Class: mdns.ClassINET, Ttl: seconds}
}

func (s *server) soa(apex string) mdns.RR {
	return &mdns.SOA{
		Hdr: header(apex, mdns.TypeSOA, negativeTTL),
		Ns:  "ns.dns." + s.zone.Domain(), Mbox: "hostmaster." + s.zone.Domain(),
		Serial: s.zone.Serial(), Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: negativeTTL,
	}
}

// record writes a record; one of the name that was asked is in its letter case
// (0x20).
func (s *server) record(r zone.Record, asked, as string) mdns.RR {
	name := r.Name
	if name == asked {
		name = as
	}
	h := header(name, uint16(r.Type), ttl)
	switch r.Type {
	case zone.A:
		return &mdns.A{Hdr: h, A: r.Addr.AsSlice()}
	case zone.AAAA:
		return &mdns.AAAA{Hdr: h, AAAA: r.Addr.AsSlice()}
	case zone.CNAME:
		return &mdns.CNAME{Hdr: h, Target: r.Target}
	case zone.PTR:
		return &mdns.PTR{Hdr: h, Ptr: r.Target}
	case zone.NS:
		return &mdns.NS{Hdr: h, Ns: r.Target}
	case zone.SRV:
		return &mdns.SRV{Hdr: h, Weight: r.Weight, Port: r.Port, Target: r.Target}
	case zone.TXT:
		return &mdns.TXT{Hdr: h, Txt: []string{r.Text}}
	default:
		return s.soa(s.zone.Domain())
	}
}
