package nftables

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// expr is one expression of a rule, as the kernel takes it.
type expr func(*attrs)

// Registers of four bytes each. A key or an address that is longer takes
// several in a row.
const reg0 = unix.NFT_REG32_00

func named(name string, fill func(*attrs)) expr {
	return func(a *attrs) {
		a.nested(unix.NFTA_LIST_ELEM, func(a *attrs) {
			a.str(unix.NFTA_EXPR_NAME, name)
			if fill != nil {
				a.nested(unix.NFTA_EXPR_DATA, fill)
			}
		})
	}
}

func payload(base, offset, length, reg uint32) expr {
	return named("payload", func(a *attrs) {
		a.u32(unix.NFTA_PAYLOAD_DREG, reg)
		a.u32(unix.NFTA_PAYLOAD_BASE, base)
		a.u32(unix.NFTA_PAYLOAD_OFFSET, offset)
		a.u32(unix.NFTA_PAYLOAD_LEN, length)
	})
}

func metaGet(key, reg uint32) expr {
	return named("meta", func(a *attrs) {
		a.u32(unix.NFTA_META_KEY, key)
		a.u32(unix.NFTA_META_DREG, reg)
	})
}

func metaSet(key, reg uint32) expr {
	return named("meta", func(a *attrs) {
		a.u32(unix.NFTA_META_KEY, key)
		a.u32(unix.NFTA_META_SREG, reg)
	})
}

const (
	ctState    = 0
	ctStatus   = 2
	ctProtoDst = 12
	ctDstIP    = 20
	ctDstIP6   = 22
)

func ct(key, reg uint32, original bool) expr {
	return named("ct", func(a *attrs) {
		a.u32(unix.NFTA_CT_KEY, key)
		a.u32(unix.NFTA_CT_DREG, reg)
		if original {
			a.u8(unix.NFTA_CT_DIRECTION, 0)
		}
	})
}

func data(v []byte) func(*attrs) { return func(a *attrs) { a.bytes(unix.NFTA_DATA_VALUE, v) } }

func compare(op, reg uint32, v []byte) expr {
	return named("cmp", func(a *attrs) {
		a.u32(unix.NFTA_CMP_SREG, reg)
		a.u32(unix.NFTA_CMP_OP, op)
		a.nested(unix.NFTA_CMP_DATA, data(v))
	})
}

func eq(reg uint32, v ...byte) expr  { return compare(unix.NFT_CMP_EQ, reg, v) }
func neq(reg uint32, v ...byte) expr { return compare(unix.NFT_CMP_NEQ, reg, v) }

// and keeps the bits of mask of a register of four bytes.
func and(reg uint32, mask []byte) expr {
	return named("bitwise", func(a *attrs) {
		a.u32(unix.NFTA_BITWISE_SREG, reg)
		a.u32(unix.NFTA_BITWISE_DREG, reg)
		a.u32(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
		a.nested(unix.NFTA_BITWISE_MASK, data(mask))
		a.nested(unix.NFTA_BITWISE_XOR, data(make([]byte, len(mask))))
	})
}

// native is a number in the machine's own order, in which marks, priorities and
// conntrack states are.
func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// lookup goes on with the rule when the key is in the set; in a map it loads the
// data into dreg.
func lookup(set string, sreg uint32, dreg ...uint32) expr {
	return named("lookup", func(a *attrs) {
		a.str(unix.NFTA_LOOKUP_SET, set)
		a.u32(unix.NFTA_LOOKUP_SREG, sreg)
		for _, r := range dreg {
			a.u32(unix.NFTA_LOOKUP_DREG, r)
		}
	})
}

// missing goes on with the rule when the key is not in the set.
func missing(set string, sreg uint32) expr {
	return named("lookup", func(a *attrs) {
		a.str(unix.NFTA_LOOKUP_SET, set)
		a.u32(unix.NFTA_LOOKUP_SREG, sreg)
		a.u32(unix.NFTA_LOOKUP_FLAGS, unix.NFT_LOOKUP_F_INV)
	})
}

// random draws a number below n.
func random(n, reg uint32) expr {
	return named("numgen", func(a *attrs) {
		a.u32(unix.NFTA_NG_DREG, reg)
		a.u32(unix.NFTA_NG_MODULUS, n)
		a.u32(unix.NFTA_NG_TYPE, unix.NFT_NG_RANDOM)
		a.u32(unix.NFTA_NG_OFFSET, 0)
	})
}

func verdict(code int32, chain string) expr {
	return named("immediate", func(a *attrs) {
		a.u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		a.nested(unix.NFTA_IMMEDIATE_DATA, verdictData(code, chain))
	})
}

func verdictData(code int32, chain string) func(*attrs) {
	return func(a *attrs) {
		a.nested(unix.NFTA_DATA_VERDICT, func(a *attrs) {
			a.u32(unix.NFTA_VERDICT_CODE, uint32(code))
			if chain != "" {
				a.str(unix.NFTA_VERDICT_CHAIN, chain)
			}
		})
	}
}

func jump(chain string) expr { return verdict(unix.NFT_JUMP, chain) }
func goTo(chain string) expr { return verdict(unix.NFT_GOTO, chain) }
func drop() expr             { return verdict(0, "") }
func immediate(reg uint32, v []byte) expr {
	return named("immediate", func(a *attrs) {
		a.u32(unix.NFTA_IMMEDIATE_DREG, reg)
		a.nested(unix.NFTA_IMMEDIATE_DATA, data(v))
	})
}

// dnat rewrites the destination to the address and port in registers.
func dnat(family uint8, addr, port uint32) expr {
	return named("nat", func(a *attrs) {
		a.u32(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT)
		a.u32(unix.NFTA_NAT_FAMILY, uint32(family))
		a.u32(unix.NFTA_NAT_REG_ADDR_MIN, addr)
		a.u32(unix.NFTA_NAT_REG_PROTO_MIN, port)
	})
}

// snat rewrites the source to the address in a register.
func snat(family uint8, addr, flags uint32) expr {
	return named("nat", func(a *attrs) {
		a.u32(unix.NFTA_NAT_TYPE, unix.NFT_NAT_SNAT)
		a.u32(unix.NFTA_NAT_FAMILY, uint32(family))
		a.u32(unix.NFTA_NAT_REG_ADDR_MIN, addr)
		if flags != 0 {
			a.u32(unix.NFTA_NAT_FLAGS, flags)
		}
	})
}

// masquerade rewrites the source to an address of the interface that the packet
// leaves by.
func masquerade(flags uint32) expr {
	return named("masq", func(a *attrs) {
		if flags != 0 {
			a.u32(unix.NFTA_MASQ_FLAGS, flags)
		}
	})
}

// sourceIsHere matches a source that is one of this host's addresses.
func sourceIsHere() []expr {
	return []expr{named("fib", func(a *attrs) {
		a.u32(unix.NFTA_FIB_DREG, reg0)
		a.u32(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE)
		a.u32(unix.NFTA_FIB_FLAGS, unix.NFTA_FIB_F_SADDR)
	}), eq(reg0, native(unix.RTN_LOCAL)...)}
}

// count adds the packet to a named counter.
func count(name string) expr {
	return named("objref", func(a *attrs) {
		a.u32(unix.NFTA_OBJREF_IMM_TYPE, unix.NFT_OBJECT_COUNTER)
		a.str(unix.NFTA_OBJREF_IMM_NAME, name)
	})
}

func notrack() expr { return named("notrack", nil) }

func rejectReset() expr {
	return named("reject", func(a *attrs) { a.u32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_TCP_RST) })
}

// rejectPort answers "port unreachable" of the family.
func rejectPort(family uint8) expr {
	code := uint8(3) // ICMP
	if family == unix.NFPROTO_IPV6 {
		code = 4
	}
	return named("reject", func(a *attrs) {
		a.u32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_ICMP_UNREACH)
		a.u8(unix.NFTA_REJECT_ICMP_CODE, code)
	})
}

// update enters key and data into a map, or renews the entry's timeout (in
// milliseconds).
func update(set string, key, value uint32, timeout uint64) expr {
	return named("dynset", func(a *attrs) {
		a.str(unix.NFTA_DYNSET_SET_NAME, set)
		a.u32(unix.NFTA_DYNSET_OP, unix.NFT_DYNSET_OP_UPDATE)
		a.u32(unix.NFTA_DYNSET_SREG_KEY, key)
		a.u32(unix.NFTA_DYNSET_SREG_DATA, value)
		a.u64(unix.NFTA_DYNSET_TIMEOUT, timeout)
	})
}
