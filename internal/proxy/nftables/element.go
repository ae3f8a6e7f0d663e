package nftables

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// element is an element of a set or map, as bytes.
type element struct {
	set string
	at
	data  string // bytes; of a map
	chain string // of a map to chains
	// Of a map whose elements end by themselves, in milliseconds: the whole time
	// and what is left of it.
	timeout, expiration uint64
	// comment is for those who list the table; it makes no difference between
	// elements.
	comment string
}

// at is an element's place in its set, as bytes.
type at struct {
	key string
	to  string // the last key of a range, in a set of concatenated ranges
	end bool   // the end of an interval, in a set of plain ones
}

// list is a message that elements are being added to.
type list struct {
	kind        uint16
	set         string
	start, nest int // where the message and its list of elements begin
	elements    int
}

const (
	// perMessage bounds the elements of one message, and mostBytes its length,
	// which has sixteen bits.
	perMessage = 512
	mostBytes  = 60000
	// maxComment is what nft takes, without the zero at its end.
	maxComment = 127
)

// put adds an element, or deletes one, in as few messages as are needed.
func (t *batch) put(kind uint16, e *element) {
	if t.list.kind != kind || t.list.set != e.set || t.list.elements == perMessage || len(t.b)-t.list.start > mostBytes {
		t.open(kind, e)
	}
	t.list.elements++
	b := t.b
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = appendData(b, unix.NFTA_SET_ELEM_KEY, e.key)
	if e.to != "" {
		b = appendData(b, setElemKeyEnd, e.to)
	}
	if e.end {
		b = appendHeader(b, unix.NFTA_SET_ELEM_FLAGS, 4)
		b = binary.BigEndian.AppendUint32(b, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	if kind == unix.NFT_MSG_NEWSETELEM {
		switch {
		case e.chain != "":
			a := attrs{b}
			a.nested(unix.NFTA_SET_ELEM_DATA, verdictData(unix.NFT_GOTO, e.chain))
			b = a.b
		case e.data != "":
			b = appendData(b, unix.NFTA_SET_ELEM_DATA, e.data)
		}
		if e.timeout != 0 {
			b = appendHeader(b, unix.NFTA_SET_ELEM_TIMEOUT, 8)
			b = binary.BigEndian.AppendUint64(b, e.timeout)
			b = appendHeader(b, unix.NFTA_SET_ELEM_EXPIRATION, 8)
			b = binary.BigEndian.AppendUint64(b, e.expiration)
		}
		if e.comment != "" {
			text := e.comment[:min(len(e.comment), maxComment)]
			b = appendHeader(b, unix.NFTA_SET_ELEM_USERDATA, 2+len(text)+1)
			b = append(b, 0, byte(len(text)+1)) // nft's type of a comment
			b = append(b, text...)
			b = pad(append(b, 0))
		}
	}
	putHeader(b[start:], unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, len(b)-start)
	t.b = b
}

// open begins a message of elements.
func (t *batch) open(kind uint16, e *element) {
	t.close()
	flags := uint16(0)
	if kind == unix.NFT_MSG_NEWSETELEM {
		flags = unix.NLM_F_CREATE
	}
	l := list{kind: kind, set: e.set, start: len(t.b)}
	t.add(kind, flags, fmt.Sprintf("elements of set %s from %x", e.set, e.key), func(a *attrs) {
		a.str(unix.NFTA_SET_ELEM_LIST_TABLE, TableName)
		a.str(unix.NFTA_SET_ELEM_LIST_SET, e.set)
		l.nest = len(a.b)
		a.b = append(a.b, 0, 0, 0, 0)
	})
	t.list = l
}

// close ends the message of elements that is open.
func (t *batch) close() {
	if t.list.kind == 0 {
		return
	}
	putHeader(t.b[t.list.nest:], unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, len(t.b)-t.list.nest)
	binary.NativeEndian.PutUint32(t.b[t.list.start:], uint32(len(t.b)-t.list.start))
	t.list = list{}
}

func putHeader(b []byte, kind uint16, n int) {
	binary.NativeEndian.PutUint16(b, uint16(n))
	binary.NativeEndian.PutUint16(b[2:], kind)
}

func appendHeader(b []byte, kind uint16, n int) []byte {
	b = append(b, 0, 0, 0, 0)
	putHeader(b[len(b)-4:], kind, 4+n)
	return b
}

func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func appendData(b []byte, kind uint16, v string) []byte {
	b = appendHeader(b, kind|unix.NLA_F_NESTED, 4+(len(v)+3)&^3)
	b = appendHeader(b, unix.NFTA_DATA_VALUE, len(v))
	return pad(append(b, v...))
}
