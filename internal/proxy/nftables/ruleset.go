package nftables

import (
	"fmt"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/servicetable"
)

// TableName is our table's, one in each family.
const TableName = "viaduct"

// classes are the sizes by which a random slot is drawn: a pool of n backends
// uses the smallest that is not below n. A draw that misses is made again, and
// at last among the next smaller class, which is always full.
var classes = []uint32{1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384}

const (
	draws = 5
	// A frontend's number is its class, shifted, and its pool.
	classShift = 20
	poolMask   = 1<<classShift - 1
	// affinityClass is added to a class whose clients stay with a backend.
	affinityClass = 64
)

// classOf is the class of a pool of n backends.
func classOf(n uint32) uint32 {
	for i, size := range classes {
		if size >= n {
			return uint32(i)
		}
	}
	return uint32(len(classes) - 1)
}

// affinitySet holds the frontends whose clients stay with a backend for the time
// of an affinity class; affinityPortSet the node ports.
func affinitySet(class uint8) string {
	return fmt.Sprintf("aff_%d", servicetable.AffinitySeconds[class-1])
}

func affinityPortSet(class uint8) string { return affinitySet(class) + "_np" }

// family is what differs between IPv4 and IPv6.
type family struct {
	proto        uint8
	size         uint32 // of an address, in bytes
	saddr, daddr uint32 // offsets in the header
	ctDst        uint32
	addrType     uint32 // nft's own type numbers, for listing
	addrTypeName string
}

var (
	ipv4 = family{unix.NFPROTO_IPV4, 4, 12, 16, ctDstIP, 7, "ipv4_addr"}
	ipv6 = family{unix.NFPROTO_IPV6, 16, 8, 24, ctDstIP6, 8, "ipv6_addr"}
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

func (f family) sets() []set {
	front := []uint32{f.addrType, typeProto, typeService}
	frontLen := f.size + 8
	port := []uint32{typeProto, typeService}
	one := []uint32{f.addrType}
	classid := []uint32{typeClassid}
	all := []set{
		{name: "svc", key: front, keyLen: frontLen, data: classid, dataLen: 4},
		{name: "svc_ext", key: front, keyLen: frontLen, data: classid, dataLen: 4},
		{name: "np", key: port, keyLen: 8, data: classid, dataLen: 4},
		{name: "np_ext", key: port, keyLen: 8, data: classid, dataLen: 4},
		{name: "eps", key: []uint32{typeClassid, typeMark}, keyLen: 8, data: []uint32{f.addrType, typeService}, dataLen: f.size + 4},
		{name: "lb", key: classid, keyLen: 4, data: []uint32{typeVerdict}, dataLen: 16},
		{name: "aff", key: append([]uint32{f.addrType}, front...), keyLen: f.size + frontLen, data: []uint32{f.addrType, typeService}, dataLen: f.size + 4, dynamic: true, size: 262144},
		{name: "hairpin", key: []uint32{f.addrType, f.addrType}, keyLen: 2 * f.size},
		{name: "node_ips", key: one, keyLen: f.size},
		{name: "local_cidrs", key: one, keyLen: f.size, interval: true},
		{name: "inside", key: one, keyLen: f.size, interval: true},
		{name: "svc_cidrs", key: one, keyLen: f.size, interval: true},
		{name: "hide_off_cluster", key: front, keyLen: frontLen},
		{name: "hide_all", key: front, keyLen: frontLen},
		{name: "hide_all_np", key: port, keyLen: 8},
		{name: "hide_node", key: front, keyLen: frontLen},
		{name: "hide_node_np", key: port, keyLen: 8},
		{name: "noep", key: front, keyLen: frontLen},
		{name: "noep_np", key: port, keyLen: 8},
		{name: "drop_any", key: front, keyLen: frontLen},
		{name: "drop_ext", key: front, keyLen: frontLen},
		{name: "drop_np", key: port, keyLen: 8},
		{name: "guarded", key: front, keyLen: frontLen},
		{name: "sources", key: append(append([]uint32{}, front...), f.addrType), keyLen: frontLen + f.size, fields: []uint32{f.size, 1, 2, f.size}},
		{name: "local", key: front, keyLen: frontLen},
		{name: "snat_to", key: []uint32{typeProto}, keyLen: 1, data: one, dataLen: f.size},
	}
	for i := range servicetable.AffinitySeconds {
		class := uint8(i + 1)
		all = append(all, set{name: affinitySet(class), key: front, keyLen: frontLen}, set{name: affinityPortSet(class), key: port, keyLen: 8})
	}
	return all
}

// chain is a chain with its rules. Kind is empty for one that is only jumped to.
type chain struct {
	name, kind string
	hook       uint32
	priority   int32
	rules      [][]expr
}

// Hooks and priorities of netfilter.
const (
	hookPrerouting, hookInput, hookForward, hookOutput, hookPostrouting = 0, 1, 2, 3, 4

	prioRaw, prioGuard, prioDNAT, prioFilter, prioPost, prioSNAT = -300, -110, -100, 0, 99, 100
)

// words are the header fields, loaded into registers from the first on.
func (f family) regs(n uint32) uint32 { return reg0 + n/4 }

func (f family) front(addr expr) []expr {
	return []expr{addr, metaGet(unix.NFT_META_L4PROTO, f.regs(f.size)), payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, f.regs(f.size)+1)}
}

func (f family) dst() []expr {
	return f.front(payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.daddr, f.size, reg0))
}

// src is the frontend's key of an answer: source address and port.
func (f family) src() []expr {
	return []expr{payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.saddr, f.size, reg0), metaGet(unix.NFT_META_L4PROTO, f.regs(f.size)),
		payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2, f.regs(f.size)+1)}
}

// orig is the frontend's key as conntrack remembers it.
func (f family) orig(at uint32) []expr {
	return []expr{ct(f.ctDst, at, true), metaGet(unix.NFT_META_L4PROTO, at+f.size/4), ct(ctProtoDst, at+f.size/4+1, true)}
}

func (f family) port() []expr {
	return []expr{metaGet(unix.NFT_META_L4PROTO, reg0), payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, reg0+1)}
}

func (f family) daddrIn(set string) []expr {
	return []expr{payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.daddr, f.size, reg0), lookup(set, reg0)}
}

// stranger matches what does not come from a Pod: by its source, where pods holds
// Pods' ranges, or by the interface that it came in by.
func (f family) stranger(local LocalTraffic, pods string) []expr {
	switch {
	case local.Bridge != "":
		return []expr{metaGet(unix.NFT_META_IIFNAME, reg0), neq(reg0, interfaceName(local.Bridge)...)}
	case local.InterfacePrefix != "":
		return []expr{metaGet(unix.NFT_META_IIFNAME, reg0), neq(reg0, []byte(local.InterfacePrefix)...)}
	}
	return []expr{payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.saddr, f.size, reg0), missing(pods, reg0)}
}

func interfaceName(name string) []byte {
	return append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)
}

func rule(parts ...any) []expr {
	var all []expr
	for _, p := range parts {
		switch p := p.(type) {
		case expr:
			all = append(all, p)
		case []expr:
			all = append(all, p...)
		}
	}
	return all
}

func isProto(p byte) []expr { return []expr{metaGet(unix.NFT_META_L4PROTO, reg0), eq(reg0, p)} }

func stateIs(bits uint32) []expr {
	return []expr{ct(ctState, reg0, false), and(reg0, native(bits)), cmp(unix.NFT_CMP_NEQ, reg0, native(0))}
}

const (
	stateEstablishedRelated = 2 | 4
	stateNew                = 8
	statusDNAT              = 0x20
)

func translated() []expr {
	return []expr{ct(ctStatus, reg0, false), and(reg0, native(statusDNAT)), cmp(unix.NFT_CMP_NEQ, reg0, native(0))}
}

// chains is the whole rule set. It does not depend on any Service.
func (f family) chains(cfg Config) []chain {
	size4 := f.size / 4
	// find looks a frontend up and goes to draw one of its backends.
	find := func(key []expr, set string) []expr {
		return rule(key, lookup(set, reg0, reg0), metaSet(unix.NFT_META_PRIORITY, reg0), goTo("pick"))
	}
	refuse := func(match ...any) [][]expr {
		return [][]expr{
			rule(append(append([]any{isProto(unix.IPPROTO_TCP)}, match...), rejectReset())...),
			rule(append(match, rejectPort(f.proto))...),
		}
	}
	local := [][]expr{rule(f.dst(), lookup("local", reg0), notrack()), rule(f.src(), lookup("local", reg0), notrack())}

	base := []chain{
		{"raw_prerouting", "filter", hookPrerouting, prioRaw, local},
		{"raw_output", "filter", hookOutput, prioRaw, local},
		{"guard", "filter", hookPrerouting, prioGuard, [][]expr{
			rule(stateIs(stateEstablishedRelated), accept()),
			rule(f.dst(), lookup("drop_any", reg0), drop()),
			rule(f.dst(), lookup("guarded", reg0), jump("guard_sources")),
			rule(f.stranger(cfg.Local, "local_cidrs"), jump("guard_external")),
		}},
		{"guard_output", "filter", hookOutput, prioGuard, [][]expr{
			rule(stateIs(stateEstablishedRelated), accept()),
			rule(f.dst(), lookup("drop_any", reg0), drop()),
			rule(f.dst(), lookup("guarded", reg0), jump("guard_sources")),
		}},
		{"prerouting", "nat", hookPrerouting, prioDNAT, [][]expr{
			rule(f.stranger(cfg.Local, "local_cidrs"), jump("external")),
			find(f.dst(), "svc"),
			rule(f.daddrIn("node_ips"), goTo("nodeports")),
		}},
		{"output", "nat", hookOutput, prioDNAT, [][]expr{
			find(f.dst(), "svc"),
			rule(f.daddrIn("node_ips"), goTo("nodeports")),
		}},
		{"input", "filter", hookInput, prioFilter, [][]expr{
			rule(stateIs(stateNew), jump("refuse")),
			rule(stateIs(stateNew), translated(), jump("remember")),
		}},
		{"forward", "filter", hookForward, prioFilter, [][]expr{rule(stateIs(stateNew), jump("refuse"))}},
		{"filter_output", "filter", hookOutput, prioFilter, [][]expr{rule(stateIs(stateNew), jump("refuse"))}},
		{"post", "filter", hookPostrouting, prioPost, [][]expr{
			rule(stateIs(stateNew), translated(), jump("remember")),
			rule(stateIs(stateNew), translated(), immediate(reg0, native(0)), metaSet(unix.NFT_META_PRIORITY, reg0)),
		}},
		{"postrouting", "nat", hookPostrouting, prioSNAT, [][]expr{rule(translated(), goTo("masquerade"))}},
	}

	// What conntrack remembers: the frontend, or the port of a node's address.
	dialed := func(set string) []expr { return rule(f.orig(reg0), lookup(set, reg0)) }
	dialedPort := func(set string) []expr {
		return rule(ct(f.ctDst, reg0, true), lookup("node_ips", reg0), metaGet(unix.NFT_META_L4PROTO, reg0), ct(ctProtoDst, reg0+1, true), lookup(set, reg0))
	}
	offCluster := rule(dialed("hide_off_cluster"), f.stranger(cfg.Local, "inside"), goTo("hide"))
	if cfg.MasqueradeAll {
		offCluster = rule(dialed("hide_off_cluster"), goTo("hide"))
	}
	var flags uint32
	if cfg.RandomFully {
		flags = unix.NF_NAT_RANGE_PROTO_RANDOM_FULLY
	}
	plain := []chain{
		{name: "guard_external", rules: [][]expr{
			rule(f.dst(), lookup("drop_ext", reg0), drop()),
			rule(f.daddrIn("node_ips"), f.port(), lookup("drop_np", reg0), drop()),
		}},
		{name: "guard_sources", rules: [][]expr{
			rule(f.dst(), payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.saddr, f.size, f.regs(f.size)+2), missing("sources", reg0), drop()),
		}},
		{name: "external", rules: [][]expr{
			find(f.dst(), "svc_ext"),
			rule(f.daddrIn("node_ips"), find(f.port(), "np_ext")),
		}},
		{name: "nodeports", rules: [][]expr{find(f.port(), "np")}},
		{name: "pick", rules: [][]expr{rule(metaGet(unix.NFT_META_PRIORITY, reg0), and(reg0, native(^uint32(poolMask))), lookup("lb", reg0, unix.NFT_REG_VERDICT))}},
		{name: "refuse", rules: append(append(append([][]expr{},
			refuse(f.dst(), lookup("noep", reg0))...),
			refuse(f.daddrIn("node_ips"), f.port(), lookup("noep_np", reg0))...),
			refuse(f.daddrIn("svc_cidrs"))...)},
		{name: "masquerade", rules: [][]expr{
			rule(payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.saddr, f.size, reg0), payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.daddr, f.size, reg0+size4), lookup("hairpin", reg0), goTo("hide")),
			offCluster,
			rule(dialed("hide_all"), goTo("hide")),
			rule(dialedPort("hide_all_np"), goTo("hide")),
			rule(dialed("hide_node"), sourceIsHere(), goTo("hide")),
			rule(dialedPort("hide_node_np"), sourceIsHere(), goTo("hide")),
		}},
		{name: "hide", rules: [][]expr{
			rule(metaGet(unix.NFT_META_L4PROTO, reg0), lookup("snat_to", reg0, reg0), snat(f.proto, reg0, flags)),
			rule(masquerade(flags)),
		}},
	}
	remember := chain{name: "remember"}
	for i, seconds := range servicetable.AffinitySeconds {
		class := uint8(i + 1)
		// Key: client, frontend. Value: backend.
		key := append([]expr{payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.saddr, f.size, reg0)}, f.orig(reg0+size4)...)
		value := []expr{payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.daddr, f.size, reg0+2*size4+2), payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, reg0+3*size4+2)}
		keep := update("aff", reg0, reg0+2*size4+2, uint64(seconds)*1000)
		remember.rules = append(remember.rules,
			rule(dialed(affinitySet(class)), key, value, keep),
			rule(dialedPort(affinityPortSet(class)), key, value, keep))
	}
	plain = append(plain, remember)
	for i, n := range classes {
		draw := chain{name: fmt.Sprintf("t%d", n), rules: [][]expr{
			rule(metaGet(unix.NFT_META_PRIORITY, reg0), random(n, reg0+1), lookup("eps", reg0, reg0), dnat(f.proto, reg0, reg0+size4)),
		}}
		strip := rule(metaGet(unix.NFT_META_PRIORITY, reg0), and(reg0, native(poolMask)), metaSet(unix.NFT_META_PRIORITY, reg0))
		lb := chain{name: fmt.Sprintf("lb%d", n), rules: [][]expr{strip}}
		for range draws {
			lb.rules = append(lb.rules, rule(jump(draw.name)))
		}
		if i > 0 {
			lb.rules = append(lb.rules, rule(goTo(fmt.Sprintf("t%d", classes[i-1]))))
		}
		key := append([]expr{payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.saddr, f.size, reg0)},
			payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.daddr, f.size, reg0+size4), metaGet(unix.NFT_META_L4PROTO, reg0+2*size4), payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, reg0+2*size4+1))
		aff := chain{name: fmt.Sprintf("aff%d", n), rules: [][]expr{
			rule(key, lookup("aff", reg0, reg0), dnat(f.proto, reg0, reg0+size4)),
			rule(goTo(lb.name)),
		}}
		plain = append(plain, draw, lb, aff)
	}
	return append(base, plain...)
}
