package nftables

import (
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

func (t *batch) newCounter(name string) {
	t.add(unix.NFT_MSG_NEWOBJ, unix.NLM_F_CREATE, "counter "+name, func(a *attrs) {
		a.str(unix.NFTA_OBJ_TABLE, TableName)
		a.str(unix.NFTA_OBJ_NAME, name)
		a.u32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
		a.nested(unix.NFTA_OBJ_DATA, func(*attrs) {})
	})
}

// wholeTable makes the table with all its chains and rules, before any data.
func (t *batch) wholeTable(f family, cfg Config, flags uint32) {
	t.newTable(flags)
	for i, s := range f.sets() {
		t.newSet(s, uint32(i+1))
	}
	t.newCounter(counterInternal)
	t.newCounter(counterExternal)
	t.newChains(append(f.chains(cfg), chain{name: f.marker(cfg)}), f.constant(cfg)...)
}

// newChains makes chains, the elements that lead to them, and their rules.
func (t *batch) newChains(chains []chain, verdicts ...element) {
	for _, ch := range chains {
		t.newChain(ch)
	}
	for i := range verdicts {
		t.put(unix.NFT_MSG_NEWSETELEM, &verdicts[i])
	}
	for _, ch := range chains {
		for _, r := range ch.rules {
			t.newRule(ch.name, r)
		}
	}
}

// deleteChains deletes chains with their rules.
func (t *batch) deleteChains(chains []chain) {
	for _, ch := range chains {
		t.add(unix.NFT_MSG_DELRULE, 0, "delete rules of chain "+ch.name, func(a *attrs) {
			a.str(unix.NFTA_RULE_TABLE, TableName)
			a.str(unix.NFTA_RULE_CHAIN, ch.name)
		})
		t.add(unix.NFT_MSG_DELCHAIN, 0, "delete chain "+ch.name, func(a *attrs) {
			a.str(unix.NFTA_CHAIN_TABLE, TableName)
			a.str(unix.NFTA_CHAIN_NAME, ch.name)
		})
	}
}
