package nftables

import (
	"slices"

	"viaduct.dev/viaduct/internal/servicetable"
)

// A frontend leads to a number, which says all that the rules need to know:
//
//	bit 31     only callers from its source ranges are let in
//	bits 30-29 which callers are hidden (servicetable.Hide)
//	bits 28-25 the class of its session affinity, 0 for none
//	bits 24-20 the class of its pool's size, or a verdict
//	bits 19-0  the pool
const (
	poolMask   = 1<<20 - 1
	classShift = 20
	classMask  = 31 << classShift
	keepShift  = 25
	keepMask   = 15 << keepShift
	hideShift  = 29
	hideMask   = 3 << hideShift
	guardBit   = 1 << 31
)

// classes are the sizes by which a random slot is drawn: a pool of n backends
// uses the smallest that is not below n. A draw that misses is made again, and
// at last among the next smaller class, which is always full.
var classes = []uint32{1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384}

// Where there is no pool, the class is a verdict.
const (
	classRefuse = 29 + iota
	classDropInternal
	classDropExternal
)

// classOf is the class of a pool of n backends.
func classOf(n uint32) uint32 {
	i, _ := slices.BinarySearch(classes, n)
	return uint32(min(i, len(classes)-1))
}

// numbers are what a frontend leads to: in the view of this node and its Pods,
// and in everybody else's where that is another one. 0 is nowhere.
func numbers(t *servicetable.Target) (internal, external uint32) {
	internal = numberOf(t, t.Internal, classDropInternal)
	if t.External != t.Internal {
		external = numberOf(t, t.External, classDropExternal)
	}
	return internal, external
}

func numberOf(t *servicetable.Target, v servicetable.View, drop uint32) uint32 {
	var n uint32
	switch v.Verdict {
	case servicetable.Serve:
		n = classOf(v.Size)<<classShift | uint32(v.Pool)&poolMask
	case servicetable.Refuse:
		n = classRefuse << classShift
	case servicetable.Drop:
		n = drop << classShift
	default:
		return 0
	}
	if t.Guarded {
		n |= guardBit
	}
	return n | uint32(t.Hide)<<hideShift | uint32(keepClass(t))<<keepShift
}

// keepClass is the class of a frontend's session affinity.
func keepClass(t *servicetable.Target) uint8 {
	return max(t.Internal.Pool.AffinityClass(), t.External.Pool.AffinityClass())
}

// poolOf is the pool in a number, 0 for none.
func poolOf(n uint32) servicetable.PoolID {
	if n&poolMask == 0 {
		return 0
	}
	return servicetable.PoolID(n&keepMask>>keepShift<<affinityShift | n&poolMask)
}

// affinityShift is where a PoolID holds its affinity class.
const affinityShift = 28
