package laststate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"viaduct.dev/viaduct/internal/servicetable"
)

// format names what the records mean. Change it whenever they change: a file of
// another format is set aside.
const format = "viaduct service table 1"

// chunk is how many slots share a record: most pools are one record, and a
// change in a pool of thousands is still small.
const chunk = 64

var errRecord = errors.New("a record makes no sense")

// Keys sort as the table sorts: addresses by their length first.

func appendAddr(b []byte, a netip.Addr) []byte {
	b = append(b, byte(a.BitLen()/8))
	return append(b, a.AsSlice()...)
}

func cutAddr(b []byte) (netip.Addr, []byte, error) {
	if len(b) == 0 || len(b) < 1+int(b[0]) {
		return netip.Addr{}, nil, errRecord
	}
	a, ok := netip.AddrFromSlice(b[1 : 1+b[0]])
	if !ok {
		return netip.Addr{}, nil, errRecord
	}
	return a, b[1+b[0]:], nil
}

func frontendKey(f servicetable.Frontend) []byte {
	b := appendAddr(make([]byte, 0, 20), f.Addr)
	b = binary.BigEndian.AppendUint16(b, f.Port)
	return append(b, byte(f.Protocol))
}

func cutFrontend(b []byte) (f servicetable.Frontend, rest []byte, err error) {
	if f.Addr, b, err = cutAddr(b); err != nil {
		return f, nil, err
	}
	if len(b) < 3 {
		return f, nil, errRecord
	}
	f.Port, f.Protocol = binary.BigEndian.Uint16(b), servicetable.Protocol(b[2])
	return f, b[3:], nil
}

// targetSize is that of a target without the Service's name.
const targetSize = 20

func targetValue(t servicetable.Target) []byte {
	b := make([]byte, 0, targetSize+len(t.Service)+sealSize)
	var guarded byte
	if t.Guarded {
		guarded = 1
	}
	b = append(b, guarded, byte(t.Hide))
	for _, v := range []servicetable.View{t.Internal, t.External} {
		b = append(b, byte(v.Verdict))
		b = binary.BigEndian.AppendUint32(b, uint32(v.Pool))
		b = binary.BigEndian.AppendUint32(b, v.Size)
	}
	return append(b, t.Service...)
}

func parseTarget(b []byte) (t servicetable.Target, err error) {
	if len(b) < targetSize {
		return t, errRecord
	}
	t.Guarded, t.Hide = b[0] != 0, servicetable.Hide(b[1])
	b = b[2:]
	for _, v := range []*servicetable.View{&t.Internal, &t.External} {
		v.Verdict = servicetable.Verdict(b[0])
		v.Pool = servicetable.PoolID(binary.BigEndian.Uint32(b[1:]))
		v.Size = binary.BigEndian.Uint32(b[5:])
		b = b[9:]
	}
	t.Service = string(b)
	return t, nil
}

func chunkKey(pool servicetable.PoolID, number uint32) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 8), uint32(pool))
	return binary.BigEndian.AppendUint32(b, number)
}

func parseChunkKey(b []byte) (servicetable.PoolID, uint32, error) {
	if len(b) != 8 {
		return 0, 0, errRecord
	}
	return servicetable.PoolID(binary.BigEndian.Uint32(b)), binary.BigEndian.Uint32(b[4:]), nil
}

// backends are those of a chunk; the zero AddrPort is an empty slot.
type backends [chunk]netip.AddrPort

// value is nil for a chunk that is empty.
func (s *backends) value() []byte {
	n := chunk
	for n > 0 && !s[n-1].IsValid() {
		n--
	}
	var b []byte
	for _, ap := range s[:n] {
		if !ap.IsValid() {
			b = append(b, 0)
			continue
		}
		b = appendAddr(b, ap.Addr())
		b = binary.BigEndian.AppendUint16(b, ap.Port())
	}
	return b
}

func (s *backends) parse(b []byte) error {
	*s = backends{}
	for i := 0; len(b) > 0; i++ {
		if i == chunk {
			return errRecord
		}
		if b[0] == 0 {
			b = b[1:]
			continue
		}
		a, rest, err := cutAddr(b)
		if err != nil || len(rest) < 2 {
			return errRecord
		}
		s[i], b = netip.AddrPortFrom(a, binary.BigEndian.Uint16(rest)), rest[2:]
	}
	return nil
}

func sourceKey(f servicetable.Frontend, r netip.Prefix) []byte {
	return append(appendAddr(frontendKey(f), r.Addr()), byte(r.Bits()))
}

func parseSourceKey(b []byte) (s servicetable.SourceChange, err error) {
	if s.Frontend, b, err = cutFrontend(b); err != nil {
		return s, err
	}
	a, rest, err := cutAddr(b)
	if err != nil || len(rest) != 1 || int(rest[0]) > a.BitLen() {
		return s, errRecord
	}
	s.Range, s.Added = netip.PrefixFrom(a, int(rest[0])), true
	return s, nil
}

func healthValue(c servicetable.HealthChange) []byte {
	b := binary.BigEndian.AppendUint16(nil, c.Port)
	return binary.AppendUvarint(b, uint64(c.Local))
}

func parseHealth(key, b []byte) (c servicetable.HealthChange, err error) {
	namespace, name, ok := strings.Cut(string(key), "/")
	if !ok || len(b) < 3 {
		return c, errRecord
	}
	local, n := binary.Uvarint(b[2:])
	if n <= 0 {
		return c, errRecord
	}
	return servicetable.HealthChange{
		Service: types.NamespacedName{Namespace: namespace, Name: name},
		Port:    binary.BigEndian.Uint16(b), Local: int(local),
	}, nil
}

func revisionValue(r servicetable.Revision) []byte {
	b := binary.BigEndian.AppendUint64(nil, r.Services)
	return binary.BigEndian.AppendUint64(b, r.EndpointSlices)
}

func parseRevision(b []byte) (servicetable.Revision, error) {
	if len(b) != 16 {
		return servicetable.Revision{}, fmt.Errorf("revision: %w", errRecord)
	}
	return servicetable.Revision{Services: binary.BigEndian.Uint64(b), EndpointSlices: binary.BigEndian.Uint64(b[8:])}, nil
}
