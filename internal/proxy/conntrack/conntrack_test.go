package conntrack

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/lab/labtest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB) *Conn {
	ns := labtest.New(t)
	var c *Conn
	must(t, ns.Do(func() (err error) { c, err = Open(); return err }))
	t.Cleanup(func() { c.Close() })
	return c
}

// flow is the message that makes an entry: a datagram from a client to an
// address, translated to a backend if there is one.
func flow(client, dialed, backend netip.AddrPort) netlink.Message {
	v6 := dialed.Addr().Is6()
	ip := [2]uint16{ipV4Src, ipV4Dst}
	natIP := uint16(1) // CTA_NAT_V4_MINIP
	if v6 {
		ip, natIP = [2]uint16{ipV6Src, ipV6Dst}, 4
	}
	e := netlink.NewAttributeEncoder()
	side := func(kind uint16, from, to netip.AddrPort) {
		e.Nested(kind, func(e *netlink.AttributeEncoder) error {
			e.Nested(tupleIP, func(e *netlink.AttributeEncoder) error {
				e.Bytes(ip[0], from.Addr().AsSlice())
				e.Bytes(ip[1], to.Addr().AsSlice())
				return nil
			})
			e.Nested(tupleProto, func(e *netlink.AttributeEncoder) error {
				e.Uint8(protoNum, unix.IPPROTO_UDP)
				e.Bytes(protoSrcPort, binary.BigEndian.AppendUint16(nil, from.Port()))
				e.Bytes(protoDst, binary.BigEndian.AppendUint16(nil, to.Port()))
				return nil
			})
			return nil
		})
	}
	side(tupleOrig, client, dialed)
	side(tupleReply, dialed, client)
	e.Bytes(status, binary.BigEndian.AppendUint32(nil, 1<<3)) // confirmed
	e.Bytes(7, binary.BigEndian.AppendUint32(nil, 600))       // CTA_TIMEOUT
	if backend.IsValid() {
		e.Nested(13, func(e *netlink.AttributeEncoder) error { // CTA_NAT_DST
			e.Bytes(natIP, backend.Addr().AsSlice())
			e.Nested(3, func(e *netlink.AttributeEncoder) error { // CTA_NAT_PROTO
				e.Bytes(1, binary.BigEndian.AppendUint16(nil, backend.Port()))
				e.Bytes(2, binary.BigEndian.AppendUint16(nil, backend.Port()))
				return nil
			})
			return nil
		})
	}
	attrs, err := e.Encode()
	if err != nil {
		panic(err)
	}
	m := message(newType, v6, attrs)
	m.Header.Flags |= netlink.Create | netlink.Excl
	return m
}

func (c *Conn) list(t testing.TB) []string {
	var all []string
	for _, v6 := range []bool{false, true} {
		must(t, c.dump(v6, nil, func(e entry) {
			f := Flow{Frontend: e.dialed}
			if e.translated {
				f.Backend = e.answers
			}
			all = append(all, f.String())
		}))
	}
	slices.Sort(all)
	return all
}

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// make makes flows such as "10.96.0.1:53 -> 10.0.0.1:53" or "10.96.0.1:53".
func (c *Conn) make(t testing.TB, flows ...string) {
	t.Helper()
	for i, text := range flows {
		dialed, backend, _ := strings.Cut(text, " -> ")
		client := netip.AddrPortFrom(netip.MustParseAddr("10.1.0.1"), uint16(2000+i))
		if ap(dialed).Addr().Is6() {
			client = netip.AddrPortFrom(netip.MustParseAddr("fd00::1"), uint16(2000+i))
		}
		var to netip.AddrPort
		if backend != "" {
			to = ap(backend)
		}
		if _, err := c.c.Execute(flow(client, ap(dialed), to)); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
}

// The row "UDP stale conntrack" of the proxy's behaviour.
func TestExactlyTheFlowsThatLeadToWhatIsGoneAreFreed(t *testing.T) {
	ours := []string{
		"10.96.0.1:53 -> 10.0.0.1:5353", "10.96.0.1:53 -> 10.0.0.2:5353", // one Service, two backends
		"10.96.0.2:53 -> 10.0.0.1:5353", // another Service's, the same backend
		"10.96.0.1:54 -> 10.0.0.1:5353", // another port's
		"10.0.0.1:5353",                 // the backend dialed by itself
		"10.0.0.1:30053",                // and at a port that is also a node port
		"172.20.0.1:30053 -> 10.0.0.1:5353", "172.20.0.2:30053 -> 10.0.0.1:5353", "172.20.0.1:30053 -> 10.0.0.1:30053",
		"192.0.2.7:53", "172.20.0.1:30053", // black-holed
		"[fd00:96::1]:53 -> [fd00::2]:5353", "[fd00:96::1]:53 -> [fd00::3]:5353", "[fd00::2]:5353", "[fd00:20::1]:30053", "[fd00:20::1]:30053 -> [fd00::2]:5353",
	}
	for name, c := range map[string]struct {
		free []Flow
		want []string // what goes
	}{
		"a cluster IP's to one backend":     {[]Flow{{ap("10.96.0.1:53"), ap("10.0.0.1:5353")}}, []string{"10.96.0.1:53 -> 10.0.0.1:5353"}},
		"an IPv6 cluster IP's":              {[]Flow{{ap("[fd00:96::1]:53"), ap("[fd00::2]:5353")}}, []string{"[fd00:96::1]:53 -> [fd00::2]:5353"}},
		"a node port's, at every address":   {[]Flow{{ap("0.0.0.0:30053"), ap("10.0.0.1:5353")}}, []string{"172.20.0.1:30053 -> 10.0.0.1:5353", "172.20.0.2:30053 -> 10.0.0.1:5353"}},
		"where both ports are the same":     {[]Flow{{ap("0.0.0.0:30053"), ap("10.0.0.1:30053")}}, []string{"172.20.0.1:30053 -> 10.0.0.1:30053"}},
		"an IPv6 node port's":               {[]Flow{{ap("[::]:30053"), ap("[fd00::2]:5353")}}, []string{"[fd00:20::1]:30053 -> [fd00::2]:5353"}},
		"black-holed, of an external IP":    {[]Flow{{Frontend: ap("192.0.2.7:53")}}, []string{"192.0.2.7:53"}},
		"black-holed, of a served address":  {[]Flow{{Frontend: ap("10.96.0.1:53")}}, nil},
		"black-holed, of a node port":       {[]Flow{{Frontend: ap("0.0.0.0:30053")}}, []string{"10.0.0.1:30053", "172.20.0.1:30053"}},
		"black-holed, of an IPv6 node port": {[]Flow{{Frontend: ap("[::]:30053")}}, []string{"[fd00:20::1]:30053"}},
		"several":                           {[]Flow{{ap("10.96.0.1:53"), ap("10.0.0.1:5353")}, {ap("10.96.0.1:53"), ap("10.0.0.2:5353")}}, []string{"10.96.0.1:53 -> 10.0.0.1:5353", "10.96.0.1:53 -> 10.0.0.2:5353"}},
		"what is not there":                 {[]Flow{{ap("10.96.0.9:53"), ap("10.0.0.1:5353")}}, nil},
	} {
		for _, many := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/many=%v", name, many), func(t *testing.T) {
				conn := open(t)
				conn.make(t, ours...)
				before := conn.list(t)
				if len(before) != len(ours) {
					t.Fatalf("made %q", before)
				}
				if many {
					must(t, conn.freeMany(c.free))
				} else {
					for _, f := range c.free { // without the way out
						if err := conn.freeOne(f); err != nil && err != unix.ENOENT && !strings.Contains(err.Error(), "no such file") {
							t.Fatal(err)
						}
					}
				}
				after := conn.list(t)
				var gone []string
				for _, f := range before {
					if !slices.Contains(after, f) {
						gone = append(gone, strings.TrimSuffix(f, " -> nowhere"))
					}
				}
				if !slices.Equal(gone, c.want) {
					t.Errorf("freed %q, want %q", gone, c.want)
				}
			})
		}
	}
}

func TestAHundredThousandOtherFlowsSurvive(t *testing.T) {
	const others = 100_000
	conn := open(t)
	var batch []netlink.Message
	for i := range others {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 14), 1}), uint16(1024+i&0x3fff))
		m := flow(client, ap("10.96.0.2:53"), ap("10.0.0.1:5353"))
		m.Header.Flags &^= netlink.Acknowledge
		if batch = append(batch, m); len(batch) == 100 || i == others-1 {
			_, err := conn.c.SendMessages(batch)
			must(t, err)
			batch = batch[:0]
		}
	}
	conn.make(t, "10.96.0.1:53 -> 10.0.0.1:5353", "10.96.0.1:53 -> 10.0.0.2:5353")
	if n := len(conn.list(t)); n != others+2 {
		t.Fatalf("made %d entries; net.netfilter.nf_conntrack_max may be too small", n)
	}
	start := time.Now()
	must(t, conn.Free([]Flow{{ap("10.96.0.1:53"), ap("10.0.0.1:5353")}}))
	t.Logf("one flow beside %d: %s", others, time.Since(start))
	if n := len(conn.list(t)); n != others+1 {
		t.Errorf("left: %d", n)
	}
	var many []Flow
	for i := range 10_000 {
		many = append(many, Flow{ap("10.96.0.1:53"), netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 5353)})
	}
	start = time.Now()
	must(t, conn.Free(many))
	t.Logf("a pool of %d backends beside %d: %s", len(many), others, time.Since(start))
	if n := len(conn.list(t)); n != others {
		t.Errorf("left: %d", n)
	}
}
