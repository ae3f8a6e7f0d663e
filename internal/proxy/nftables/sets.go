package nftables

import (
	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/servicetable"
)

// TableName is our table's, one in each family.
const TableName = "viaduct"

// family is what differs between IPv4 and IPv6.
type family struct {
	proto        uint8
	size         uint32 // of an address, in bytes
	saddr, daddr uint32 // offsets in the header
	ctDst        uint32
	addrType     uint32 // nft's own type number, for listing
}

var (
	ipv4 = family{unix.NFPROTO_IPV4, 4, 12, 16, ctDstIP, 7}
	ipv6 = family{unix.NFPROTO_IPV6, 16, 8, 24, ctDstIP6, 8}
)

// nft's type numbers (include/datatype.h of nftables).
const (
	typeVerdict = 1
	typeMark    = 19
	typeProto   = 12
	typeService = 13
	typeClassid = 23
)

// set describes a set or map of the table.
type set struct {
	name     string
	key      []uint32 // nft's types
	keyLen   uint32
	data     []uint32 // of a map
	dataLen  uint32
	interval bool
	fields   []uint32 // the fields' lengths, of a set whose elements are ranges in each field
	dynamic  bool
	size     uint32
}

// maxClients bounds the clients that are bound to backends, in each family.
const maxClients = 262144

func (f family) sets() []set {
	front := []uint32{f.addrType, typeProto, typeService}
	frontLen := f.size + 8
	port := []uint32{typeProto, typeService}
	one := []uint32{f.addrType}
	number := []uint32{typeClassid}
	verdict := []uint32{typeVerdict}
	return []set{
		{name: "svc", key: front, keyLen: frontLen, data: number, dataLen: 4},
		{name: "svc_ext", key: front, keyLen: frontLen, data: number, dataLen: 4},
		{name: "np", key: port, keyLen: 8, data: number, dataLen: 4},
		{name: "np_ext", key: port, keyLen: 8, data: number, dataLen: 4},
		{name: "eps", key: []uint32{typeClassid, typeMark}, keyLen: 8, data: []uint32{f.addrType, typeService}, dataLen: f.size + 4},
		{name: "lb", key: number, keyLen: 4, data: verdict, dataLen: 16},
		{name: "hidden", key: number, keyLen: 4, data: verdict, dataLen: 16},
		{name: "aff", key: append(one, front...), keyLen: f.size + frontLen, data: []uint32{f.addrType, typeService}, dataLen: f.size + 4, dynamic: true, size: maxClients},
		{name: "hairpin", key: []uint32{f.addrType, f.addrType}, keyLen: 2 * f.size},
		{name: "node_ips", key: one, keyLen: f.size},
		{name: "local_cidrs", key: one, keyLen: f.size, interval: true},
		{name: "inside", key: one, keyLen: f.size, interval: true},
		{name: "svc_cidrs", key: one, keyLen: f.size, interval: true},
		{name: "sources", key: append(append([]uint32{}, front...), f.addrType), keyLen: frontLen + f.size, fields: []uint32{f.size, 1, 2, f.size}},
		{name: "local", key: front, keyLen: frontLen},
		{name: "snat_to", key: []uint32{typeProto}, keyLen: 1, data: one, dataLen: f.size},
	}
}

// constant are the elements that maps to chains hold, made with the rules: a
// change of such a map would have the kernel check the whole table.
func (f family) constant(cfg Config) (all []element) {
	add := func(set string, key uint32, chain string) {
		all = append(all, element{set: set, at: at{key: string(native(key))}, chain: chain})
	}
	for i, n := range classes {
		add("lb", uint32(i)<<classShift, sized("lb", n))
	}
	add("lb", classRefuse<<classShift, "refuse")
	add("lb", classDropInternal<<classShift, "drop_internal")
	add("lb", classDropExternal<<classShift, "drop_external")
	offCluster := "hide_off_cluster"
	if cfg.MasqueradeAll {
		offCluster = "hide"
	}
	add("hidden", uint32(servicetable.HideOffCluster)<<hideShift, offCluster)
	add("hidden", uint32(servicetable.HideEverybody)<<hideShift, "hide")
	add("hidden", uint32(servicetable.HideNode)<<hideShift, "hide_node")
	return all
}

// The counters of what policies have dropped.
const (
	counterInternal = "dropped_internal"
	counterExternal = "dropped_external"
)
