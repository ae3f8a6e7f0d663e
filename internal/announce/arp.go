package announce

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// repeats are the pauses after which a node that has taken an address over tells
// so again: the first packet may be lost.
var repeats = []time.Duration{0, 200 * time.Millisecond, time.Second}

// owned is the set of addresses that a responder answers for, with what it tells
// of new ones.
type owned struct {
	mu    sync.Mutex
	addrs map[netip.Addr]bool
	wg    sync.WaitGroup
}

func (o *owned) has(a netip.Addr) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.addrs[a]
}

// set replaces the addresses and gives those that are new and those that went.
func (o *owned) set(now map[netip.Addr]bool, family func(netip.Addr) bool) (added, removed []netip.Addr) {
	o.mu.Lock()
	defer o.mu.Unlock()
	next := map[netip.Addr]bool{}
	for a := range now {
		if !family(a) {
			continue
		}
		next[a] = true
		if !o.addrs[a] {
			added = append(added, a)
		}
	}
	for a := range o.addrs {
		if !next[a] {
			removed = append(removed, a)
		}
	}
	o.addrs = next
	return added, removed
}

// tell calls say for an address now and again, while it is owned.
func (o *owned) tell(ctx context.Context, a netip.Addr, say func()) {
	o.wg.Go(func() {
		for _, pause := range repeats {
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
			if !o.has(a) {
				return
			}
			say()
		}
	})
}

// arp answers ARP requests (RFC 826) for IPv4 addresses.
type arp struct {
	owned
	ifi  *net.Interface
	file *os.File // a packet socket, in non-blocking mode so that closing it ends a read
	raw  func(fn func(fd uintptr) bool) error
	fd   int
}

const (
	arpRequest = 1
	arpReply   = 2
	arpSize    = 28 // of Ethernet and IPv4
)

func newARP(ifi *net.Interface) (*arp, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ARP)))
	if err != nil {
		return nil, fmt.Errorf("open an ARP socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: ifi.Index}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind the ARP socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "arp")
	conn, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open an ARP socket: %w", err)
	}
	return &arp{ifi: ifi, file: f, raw: conn.Read, fd: fd}, nil
}

func htons(n uint16) uint16 { return n<<8 | n>>8 }

func (r *arp) close() {
	r.file.Close()
	r.wg.Wait()
}

func (r *arp) own(ctx context.Context, now map[netip.Addr]bool) {
	added, _ := r.set(now, netip.Addr.Is4)
	for _, a := range added {
		// A gratuitous request and reply: hosts heed one or the other (RFC 5227).
		r.tell(ctx, a, func() {
			r.send(broadcast, arpRequest, a, broadcast, a)
			r.send(broadcast, arpReply, a, broadcast, a)
		})
	}
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func (r *arp) serve(ctx context.Context) error {
	buf := make([]byte, 128)
	for {
		var n int
		var err error
		readErr := r.raw(func(fd uintptr) bool {
			n, _, err = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(err, unix.EAGAIN)
		})
		if readErr != nil {
			if ctx.Err() != nil || errors.Is(readErr, os.ErrClosed) {
				return nil
			}
			return fmt.Errorf("read ARP: %w", readErr)
		}
		if err != nil {
			if errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.EINTR) {
				continue
			}
			return fmt.Errorf("read ARP: %w", err)
		}
		op, senderMAC, senderIP, target, ok := parseARP(buf[:n])
		// A probe for a duplicate (sender 0.0.0.0) is answered too: somebody has
		// the address.
		if ok && op == arpRequest && senderIP != target && r.has(target) {
			r.send(senderMAC, arpReply, target, senderMAC, senderIP)
		}
	}
}

// parseARP reads a packet of Ethernet and IPv4; ok is false for any other.
func parseARP(p []byte) (op uint16, senderMAC net.HardwareAddr, senderIP, target netip.Addr, ok bool) {
	if len(p) < arpSize || binary.BigEndian.Uint16(p) != 1 || binary.BigEndian.Uint16(p[2:]) != unix.ETH_P_IP || p[4] != 6 || p[5] != 4 {
		return 0, nil, netip.Addr{}, netip.Addr{}, false
	}
	return binary.BigEndian.Uint16(p[6:]), append(net.HardwareAddr(nil), p[8:14]...), netip.AddrFrom4([4]byte(p[14:18])), netip.AddrFrom4([4]byte(p[24:28])), true
}

func (r *arp) send(to net.HardwareAddr, op uint16, senderIP netip.Addr, targetMAC net.HardwareAddr, targetIP netip.Addr) {
	p := make([]byte, 0, arpSize)
	p = binary.BigEndian.AppendUint16(p, 1)
	p = binary.BigEndian.AppendUint16(p, unix.ETH_P_IP)
	p = append(p, 6, 4)
	p = binary.BigEndian.AppendUint16(p, op)
	p = append(p, r.ifi.HardwareAddr...)
	p = append(p, senderIP.AsSlice()...)
	p = append(p, targetMAC...)
	p = append(p, targetIP.AsSlice()...)
	sa := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: r.ifi.Index, Halen: 6}
	copy(sa.Addr[:], to)
	// One that is lost is asked for again.
	unix.Sendto(r.fd, p, 0, sa)
}
