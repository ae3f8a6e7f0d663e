package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Dropped counts the packets of new connections that were dropped because a
// policy wants endpoints on this node and there are none: internalTrafficPolicy
// and externalTrafficPolicy. A table that is made anew begins at zero.
func (s *Sink) Dropped() (internal, external uint64, err error) {
	for _, f := range s.families {
		for name, sum := range map[string]*uint64{counterInternal: &internal, counterExternal: &external} {
			n, e := s.conn.counter(f.proto, name)
			if e != nil && !errors.Is(e, unix.ENOENT) {
				err = fmt.Errorf("read counter %s: %w", name, e)
			}
			*sum += n
		}
	}
	return internal, external, err
}

// counter is the number of packets that a named counter has seen.
func (c *conn) counter(proto uint8, name string) (packets uint64, err error) {
	err = c.ask(unix.NFT_MSG_GETOBJ, unix.NLM_F_ACK, proto, func(a *attrs) {
		a.str(unix.NFTA_OBJ_TABLE, TableName)
		a.str(unix.NFTA_OBJ_NAME, name)
		a.u32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	}, func(body []byte) {
		eachAttr(body, func(kind uint16, v []byte) {
			if kind != unix.NFTA_OBJ_DATA {
				return
			}
			eachAttr(v, func(kind uint16, v []byte) {
				if kind == unix.NFTA_COUNTER_PACKETS && len(v) == 8 {
					packets = binary.BigEndian.Uint64(v)
				}
			})
		})
	})
	return packets, err
}

// generation counts the transactions of the namespace, everybody's.
func (c *conn) generation() (id uint32, err error) {
	err = c.ask(unix.NFT_MSG_GETGEN, unix.NLM_F_ACK, unix.AF_UNSPEC, nil, func(body []byte) {
		eachAttr(body, func(kind uint16, v []byte) {
			if kind == unix.NFTA_GEN_ID && len(v) == 4 {
				id = binary.BigEndian.Uint32(v)
			}
		})
	})
	return id, err
}
