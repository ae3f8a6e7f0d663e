package nftables

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/lab"
	"viaduct.dev/viaduct/internal/servicetable"
)

// segment is a TCP segment over IPv4 with an acknowledgement that no window has.
func segment(from, to netip.AddrPort, seq, ack uint32, data string) []byte {
	b := make([]byte, 40, 40+len(data))
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(b[2:], uint16(40+len(data)))
	copy(b[12:], from.Addr().AsSlice())
	copy(b[16:], to.Addr().AsSlice())
	th := b[20:]
	binary.BigEndian.PutUint16(th, from.Port())
	binary.BigEndian.PutUint16(th[2:], to.Port())
	binary.BigEndian.PutUint32(th[4:], seq)
	binary.BigEndian.PutUint32(th[8:], ack)
	th[12], th[13] = 5<<4, 0x18 // PSH, ACK
	binary.BigEndian.PutUint16(th[14:], 500)
	b = append(b, data...)
	pseudo := append(append([]byte{}, b[12:20]...), 0, unix.IPPROTO_TCP, 0, byte(20+len(data)))
	binary.BigEndian.PutUint16(b[36:], sum(append(pseudo, b[20:]...)))
	return b
}

func sum(b []byte) uint16 {
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	var s uint32
	for ; len(b) > 0; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

// Row "INVALID conntrack state" of features.md: a packet that is out of the
// window passes untranslated; its receiver knows no such connection, but its
// reset does not reach the backend, whose connection is well.
func TestAPacketOutOfTheWindowResetsNothing(t *testing.T) {
	n := newSite(t)
	s, _ := open(t, n.node)
	must(t, s.Apply(serves(1, servicetable.HideNobody, []int{10}, clusterIP...)))
	for place, from := range map[string]*lab.Namespace{"pod": n.pod, "node": n.node} {
		c, _, _, err := greet(from, clusterIP[0])
		must(t, err)
		client := c.LocalAddr().(*net.TCPAddr).AddrPort()
		if place == "node" {
			client = netip.AddrPortFrom(netip.MustParseAddr("172.20.0.11"), client.Port())
		}
		var listen, raw int
		must(t, n.far.Do(func() (err error) {
			if raw, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
				return err
			}
			listen, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
			return err
		}))
		tv := unix.NsecToTimeval(int64(300 * time.Millisecond))
		must(t, unix.SetsockoptTimeval(listen, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
		to := client.Addr().As4()
		for i := range 5 {
			b := segment(netip.MustParseAddrPort("10.244.9.10:8080"), client, uint32(i)*500_000_000, uint32(i)*700_000_000+12345, "stray")
			must(t, unix.Sendto(raw, b, 0, &unix.SockaddrInet4{Addr: to}))
		}
		// A reset would come to the backend's host.
		buf := make([]byte, 2000)
		for {
			k, _, err := unix.Recvfrom(listen, buf, 0)
			if err != nil {
				break
			}
			if k >= 40 && buf[33]&4 != 0 {
				t.Errorf("%s: a reset reached the backend", place)
			}
		}
		if err := echoes(c); err != nil {
			t.Errorf("%s: the connection broke: %v", place, err)
		}
		c.Close()
		unix.Close(raw)
		unix.Close(listen)
	}
}
