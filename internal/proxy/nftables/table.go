package nftables

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Flags of a table since Linux 6.9: others can neither flush nor change it, and
// it outlives its owner.
const (
	tableOwner   = 2
	tablePersist = 4
)

// Numbers of nf_tables' interface that package unix lacks.
const (
	setConcat     = 0x80 // NFT_SET_CONCAT
	setDescConcat = 2    // NFTA_SET_DESC_CONCAT
	setFieldLen   = 1    // NFTA_SET_FIELD_LEN
	setElemKeyEnd = 10   // NFTA_SET_ELEM_KEY_END
)

// newTable is what the message that makes a table is called in errors.
const newTable = "table " + TableName

func (t *batch) newTable(flags uint32) {
	t.add(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, newTable, func(a *attrs) {
		a.str(unix.NFTA_TABLE_NAME, TableName)
		a.u32(unix.NFTA_TABLE_FLAGS, flags)
	})
}

func (t *batch) deleteTable() {
	t.add(unix.NFT_MSG_DELTABLE, 0, "delete table "+TableName, func(a *attrs) { a.str(unix.NFTA_TABLE_NAME, TableName) })
}

func concat(types []uint32) (all uint32) {
	for _, t := range types {
		all = all<<6 | t
	}
	return all
}

func (t *batch) newSet(s set, id uint32) {
	t.add(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, "set "+s.name, func(a *attrs) {
		a.str(unix.NFTA_SET_TABLE, TableName)
		a.str(unix.NFTA_SET_NAME, s.name)
		flags := uint32(0)
		if len(s.data) > 0 {
			flags |= unix.NFT_SET_MAP
		}
		if s.interval {
			flags |= unix.NFT_SET_INTERVAL
		}
		if len(s.fields) > 0 {
			flags |= unix.NFT_SET_INTERVAL | setConcat
		}
		if s.dynamic {
			flags |= unix.NFT_SET_EVAL | unix.NFT_SET_TIMEOUT
		}
		a.u32(unix.NFTA_SET_FLAGS, flags)
		a.u32(unix.NFTA_SET_KEY_TYPE, concat(s.key))
		a.u32(unix.NFTA_SET_KEY_LEN, s.keyLen)
		if len(s.data) > 0 {
			kind := concat(s.data)
			if s.data[0] == typeVerdict {
				kind = unix.NFT_DATA_VERDICT
			}
			a.u32(unix.NFTA_SET_DATA_TYPE, kind)
			a.u32(unix.NFTA_SET_DATA_LEN, s.dataLen)
		}
		a.u32(unix.NFTA_SET_ID, id)
		if s.size > 0 {
			a.nested(unix.NFTA_SET_DESC, func(a *attrs) { a.u32(unix.NFTA_SET_DESC_SIZE, s.size) })
		}
		if len(s.fields) > 0 {
			a.nested(unix.NFTA_SET_DESC, func(a *attrs) {
				a.nested(setDescConcat, func(a *attrs) {
					for _, length := range s.fields {
						a.nested(unix.NFTA_LIST_ELEM, func(a *attrs) { a.u32(setFieldLen, length) })
					}
				})
			})
		}
	})
}

func (t *batch) newChain(c chain) {
	t.add(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, "chain "+c.name, func(a *attrs) {
		a.str(unix.NFTA_CHAIN_TABLE, TableName)
		a.str(unix.NFTA_CHAIN_NAME, c.name)
		if c.kind == "" {
			return
		}
		a.nested(unix.NFTA_CHAIN_HOOK, func(a *attrs) {
			a.u32(unix.NFTA_HOOK_HOOKNUM, c.hook)
			a.u32(unix.NFTA_HOOK_PRIORITY, uint32(c.priority))
		})
		a.str(unix.NFTA_CHAIN_TYPE, c.kind)
		a.u32(unix.NFTA_CHAIN_POLICY, 1)
	})
}

func (t *batch) newRule(chain string, exprs []expr) {
	t.add(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, "rule of chain "+chain, func(a *attrs) {
		a.str(unix.NFTA_RULE_TABLE, TableName)
		a.str(unix.NFTA_RULE_CHAIN, chain)
		a.nested(unix.NFTA_RULE_EXPRESSIONS, func(a *attrs) {
			for _, e := range exprs {
				e(a)
			}
		})
	})
}

// element is an element of a set or map, as bytes.
type element struct {
	set string
	at
	data string // bytes; of a map
	// Of a map whose elements end by themselves, in milliseconds: the whole time
	// and what is left of it.
	timeout, expiration uint64
}

// at is an element's place in its set, as bytes.
type at struct {
	key string
	to  string // the last key of a range, in a set of concatenated ranges
	end bool   // the end of an interval, in a set of plain ones
}

// perMessage bounds the elements of one message: its length has sixteen bits.
const perMessage = 256

// elements adds or deletes elements, in as few messages as they need.
func (t *batch) elements(kind uint16, all []element) {
	for start := 0; start < len(all); {
		end := start + 1
		for end < len(all) && end-start < perMessage && all[end].set == all[start].set {
			end++
		}
		part := all[start:end]
		flags := uint16(0)
		if kind == unix.NFT_MSG_NEWSETELEM {
			flags = unix.NLM_F_CREATE
		}
		t.add(kind, flags, fmt.Sprintf("%d elements of set %s from %x", len(part), part[0].set, part[0].key), func(a *attrs) {
			a.str(unix.NFTA_SET_ELEM_LIST_TABLE, TableName)
			a.str(unix.NFTA_SET_ELEM_LIST_SET, part[0].set)
			a.nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(a *attrs) {
				for i := range part {
					e := &part[i]
					a.nested(unix.NFTA_LIST_ELEM, func(a *attrs) {
						a.nested(unix.NFTA_SET_ELEM_KEY, data([]byte(e.key)))
						if e.to != "" {
							a.nested(setElemKeyEnd, data([]byte(e.to)))
						}
						if e.end {
							a.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
						}
						if e.data != "" && kind == unix.NFT_MSG_NEWSETELEM {
							a.nested(unix.NFTA_SET_ELEM_DATA, data([]byte(e.data)))
						}
						if e.timeout != 0 && kind == unix.NFT_MSG_NEWSETELEM {
							a.u64(unix.NFTA_SET_ELEM_TIMEOUT, e.timeout)
							a.u64(unix.NFTA_SET_ELEM_EXPIRATION, e.expiration)
						}
					})
				}
			})
		})
		start = end
	}
}

// verdicts fills the constant map from classes to chains.
func (t *batch) verdicts(f family) {
	for i, n := range classes {
		for _, v := range []struct {
			class uint32
			chain string
		}{{uint32(i), fmt.Sprintf("lb%d", n)}, {uint32(i) + affinityClass, fmt.Sprintf("aff%d", n)}} {
			t.add(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, "class "+v.chain, func(a *attrs) {
				a.str(unix.NFTA_SET_ELEM_LIST_TABLE, TableName)
				a.str(unix.NFTA_SET_ELEM_LIST_SET, "lb")
				a.nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(a *attrs) {
					a.nested(unix.NFTA_LIST_ELEM, func(a *attrs) {
						a.nested(unix.NFTA_SET_ELEM_KEY, data(native(v.class<<classShift)))
						a.nested(unix.NFTA_SET_ELEM_DATA, verdictData(unix.NFT_GOTO, v.chain))
					})
				})
			})
		}
	}
}

// wholeTable makes the table with all its chains and rules, before any data.
func (t *batch) wholeTable(f family, cfg Config, flags uint32) {
	t.newTable(flags)
	for i, s := range f.sets() {
		t.newSet(s, uint32(i+1))
	}
	chains := append(f.chains(cfg), chain{name: f.marker(cfg)})
	for _, ch := range chains {
		t.newChain(ch)
	}
	t.verdicts(f)
	for _, ch := range chains {
		for _, r := range ch.rules {
			t.newRule(ch.name, r)
		}
	}
}

func bigEndian16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
