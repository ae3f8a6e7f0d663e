package nftables

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// chainNames lists the chains of our table in a family; none where there is no
// table.
func (c *conn) chainNames(proto uint8) ([]string, error) {
	var all []string
	err := c.dump(unix.NFT_MSG_GETCHAIN, proto, nil, func(body []byte) {
		var table, name string
		eachAttr(body, func(kind uint16, v []byte) {
			switch kind {
			case unix.NFTA_CHAIN_TABLE:
				table = text(v)
			case unix.NFTA_CHAIN_NAME:
				name = text(v)
			}
		})
		if table == TableName {
			all = append(all, name)
		}
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return all, err
}

// hasTable says whether our table is there in a family.
func (c *conn) hasTable(proto uint8) (bool, error) {
	found := false
	err := c.dump(unix.NFT_MSG_GETTABLE, proto, nil, func(body []byte) {
		eachAttr(body, func(kind uint16, v []byte) {
			found = found || kind == unix.NFTA_TABLE_NAME && text(v) == TableName
		})
	})
	return found, err
}

func text(v []byte) string {
	for i, b := range v {
		if b == 0 {
			return string(v[:i])
		}
	}
	return string(v)
}

// elements gives every element of a set.
func (c *conn) elements(proto uint8, set string, each func(element)) error {
	return c.dump(unix.NFT_MSG_GETSETELEM, proto, func(a *attrs) {
		a.str(unix.NFTA_SET_ELEM_LIST_TABLE, TableName)
		a.str(unix.NFTA_SET_ELEM_LIST_SET, set)
	}, func(body []byte) {
		eachAttr(body, func(kind uint16, list []byte) {
			if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				return
			}
			eachAttr(list, func(_ uint16, elem []byte) {
				e := element{set: set}
				eachAttr(elem, func(kind uint16, v []byte) {
					switch kind {
					case unix.NFTA_SET_ELEM_KEY:
						eachAttr(v, func(_ uint16, v []byte) { e.key = string(v) })
					case setElemKeyEnd:
						eachAttr(v, func(_ uint16, v []byte) { e.to = string(v) })
					case unix.NFTA_SET_ELEM_DATA:
						eachAttr(v, func(kind uint16, v []byte) {
							if kind == unix.NFTA_DATA_VALUE {
								e.data = string(v)
							}
						})
					case unix.NFTA_SET_ELEM_TIMEOUT:
						e.timeout = binary.BigEndian.Uint64(v)
					case unix.NFTA_SET_ELEM_EXPIRATION:
						e.expiration = binary.BigEndian.Uint64(v)
					case unix.NFTA_SET_ELEM_FLAGS:
						e.end = len(v) == 4 && binary.BigEndian.Uint32(v)&unix.NFT_SET_ELEM_INTERVAL_END != 0
					}
				})
				each(e)
			})
		})
	})
}
