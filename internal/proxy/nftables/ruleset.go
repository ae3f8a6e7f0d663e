package nftables

import (
	"fmt"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/servicetable"
)

// chain is a chain with its rules. Kind is empty for one that is only jumped to.
type chain struct {
	name, kind string
	hook       uint32
	priority   int32
	rules      [][]expr
}

// Hooks and priorities of netfilter. Our translation comes just before others',
// such as that of iptables, which may hold what a former proxy has left.
const (
	hookPrerouting, hookInput, hookOutput, hookPostrouting = 0, 1, 3, 4

	prioRaw, prioDNAT, prioFilter, prioSNAT = -300, -101, 0, 99
)

// draws is how often a slot is drawn before the class below is taken.
const draws = 5

func sized(name string, n uint32) string { return fmt.Sprintf("%s%d", name, n) }

// chains is the whole rule set. It does not depend on any Service.
//
// Nearly all of it is in chains of the type nat, which the kernel walks for the
// first packet of a connection only.
func (f family) chains(cfg Config) []chain {
	size4 := f.size / 4
	// find looks a frontend up and goes to where the number is used.
	find := func(key []expr, set, chain string) []expr {
		return rule(key, lookup(set, reg0, reg0), metaSet(unix.NFT_META_PRIORITY, reg0), goTo(chain))
	}
	translatedPort := rule(ct(f.ctDst, reg0, true), lookup("node_ips", reg0), metaGet(unix.NFT_META_L4PROTO, reg0), ct(ctProtoDst, reg0+1, true))
	unhide := rule(immediate(reg0, native(0)), metaSet(unix.NFT_META_PRIORITY, reg0))

	all := []chain{
		{"prerouting", "nat", hookPrerouting, prioDNAT, [][]expr{
			rule(f.stranger(cfg.Local, "local_cidrs"), jump("external")),
			find(f.dst(), "svc", "pick"),
			rule(f.daddrIn("node_ips"), goTo("nodeports")),
			rule(f.daddrIn("svc_cidrs"), goTo("refuse")),
		}},
		{"output", "nat", hookOutput, prioDNAT, [][]expr{
			find(f.dst(), "svc", "pick"),
			rule(f.daddrIn("node_ips"), goTo("nodeports")),
			rule(f.daddrIn("svc_cidrs"), goTo("refuse")),
		}},
		{"input", "nat", hookInput, prioSNAT, [][]expr{rule(translated(), goTo("delivered"))}},
		{"postrouting", "nat", hookPostrouting, prioSNAT, [][]expr{rule(translated(), goTo("sent"))}},
		{"strays", "filter", hookPostrouting, prioFilter, [][]expr{rule(stateIs(stateInvalid), goTo("stray"))}},

		// Where a frontend leads to.
		{name: "external", rules: [][]expr{
			find(f.dst(), "svc_ext", "pick"),
			rule(f.daddrIn("node_ips"), find(f.port(), "np_ext", "pick")),
		}},
		{name: "nodeports", rules: [][]expr{find(f.port(), "np", "pick")}},
		{name: "pick", rules: [][]expr{
			rule(numberHas(guardBit|keepMask), jump("special")),
			rule(metaGet(unix.NFT_META_PRIORITY, reg0), and(reg0, native(classMask)), lookup("lb", reg0, unix.NFT_REG_VERDICT)),
		}},
		{name: "special", rules: [][]expr{
			rule(numberHas(guardBit), f.dst(), payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.saddr, f.size, f.regs(f.size)+2), missing("sources", reg0), drop()),
			rule(numberHas(keepMask), payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.saddr, f.size, reg0),
				payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.daddr, f.size, reg0+size4), metaGet(unix.NFT_META_L4PROTO, reg0+2*size4), payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, reg0+2*size4+1),
				lookup("aff", reg0, reg0), dnat(f.proto, reg0, reg0+size4)),
		}},
		{name: "refuse", rules: [][]expr{
			rule(isProto(unix.IPPROTO_TCP), rejectReset()),
			rule(rejectPort(f.proto)),
		}},
		{name: "drop_internal", rules: [][]expr{rule(count(counterInternal), drop())}},
		{name: "drop_external", rules: [][]expr{rule(count(counterExternal), drop())}},

		// What becomes of a connection that was translated: its client is bound to
		// the backend, or hidden from it.
		{name: "delivered", rules: [][]expr{
			find(f.orig(reg0), "svc", "received"),
			find(translatedPort, "np", "received"),
		}},
		{name: "received", rules: [][]expr{rule(numberHas(keepMask), goTo("remember"))}},
		{name: "sent", rules: [][]expr{
			find(f.orig(reg0), "svc", "settle"),
			find(translatedPort, "np", "settle"),
		}},
		{name: "settle", rules: [][]expr{
			rule(numberHas(keepMask), jump("remember")),
			rule(payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.saddr, f.size, reg0), payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.daddr, f.size, reg0+size4), lookup("hairpin", reg0), goTo("hide")),
			rule(metaGet(unix.NFT_META_PRIORITY, reg0), and(reg0, native(hideMask)), lookup("hidden", reg0, unix.NFT_REG_VERDICT)),
			unhide,
		}},
		{name: "hide_off_cluster", rules: [][]expr{rule(f.stranger(cfg.Local, "inside"), goTo("hide")), unhide}},
		{name: "hide_node", rules: [][]expr{rule(sourceIsHere(), goTo("hide")), unhide}},
		{name: "hide", rules: [][]expr{
			unhide,
			rule(metaGet(unix.NFT_META_L4PROTO, reg0), lookup("snat_to", reg0, reg0), snat(f.proto, reg0, cfg.natFlags())),
			rule(masquerade(cfg.natFlags())),
		}},
		{name: "remember", rules: f.remember()},

		// Packets that conntrack cannot place are not translated either. An answer
		// that comes to a client like this is none for it, and its reset would end
		// a connection that is well.
		{name: "stray", rules: [][]expr{
			rule(f.daddrIn("svc_cidrs"), drop()),
			rule(isProto(unix.IPPROTO_TCP), payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1, reg0), and(reg0, []byte{4}), neq(reg0, 0), drop()),
			rule(isProto(unix.IPPROTO_TCP), payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.saddr, f.size, reg0), payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.saddr, f.size, reg0+size4), lookup("hairpin", reg0), drop()),
		}},
	}
	return append(all, f.draw()...)
}

// remember binds a client to its backend: key is client and frontend.
func (f family) remember() (rules [][]expr) {
	size4 := f.size / 4
	for i, seconds := range servicetable.AffinitySeconds {
		rules = append(rules, rule(
			metaGet(unix.NFT_META_PRIORITY, reg0), and(reg0, native(keepMask)), eq(reg0, native(uint32(i+1)<<keepShift)...),
			payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.saddr, f.size, reg0), f.orig(reg0+size4),
			payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.daddr, f.size, reg0+2*size4+2), payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, reg0+3*size4+2),
			update("aff", reg0, reg0+2*size4+2, uint64(seconds)*1000)))
	}
	return rules
}

// draw are the chains that draw a slot of each class. Where all draws miss, and
// even the class below is not full, as while a pool is being changed, smaller
// ones are tried, down to the first slot.
func (f family) draw() (all []chain) {
	for i, n := range classes {
		once := sized("t", n)
		lb := chain{name: sized("lb", n), rules: [][]expr{
			rule(metaGet(unix.NFT_META_PRIORITY, reg0), and(reg0, native(poolMask)), metaSet(unix.NFT_META_PRIORITY, reg0)),
		}}
		for range draws {
			lb.rules = append(lb.rules, rule(jump(once)))
		}
		if i > 0 {
			lb.rules = append(lb.rules, rule(jump(sized("t", classes[i-1]))))
		}
		lb.rules = append(lb.rules, rule(goTo("fewer")))
		all = append(all, lb, chain{name: once, rules: [][]expr{
			rule(metaGet(unix.NFT_META_PRIORITY, reg0), random(n, reg0+1), lookup("eps", reg0, reg0), dnat(f.proto, reg0, reg0+f.size/4)),
		}})
	}
	fewer := chain{name: "fewer"}
	for _, n := range []uint32{4096, 1024, 256, 64, 16, 4, 1} {
		fewer.rules = append(fewer.rules, rule(jump(sized("t", n))))
	}
	fewer.rules = append(fewer.rules, rule(drop()))
	return append(all, fewer)
}

// local are the chains that exempt what servers on this node answer themselves:
// its packets are not tracked. They are there only while there are such servers.
func (f family) local() []chain {
	rules := [][]expr{rule(f.dst(), lookup("local", reg0), notrack()), rule(f.src(), lookup("local", reg0), notrack())}
	return []chain{{"raw_prerouting", "filter", hookPrerouting, prioRaw, rules}, {"raw_output", "filter", hookOutput, prioRaw, rules}}
}

func (cfg Config) natFlags() uint32 {
	if cfg.RandomFully {
		return unix.NF_NAT_RANGE_PROTO_RANDOM_FULLY
	}
	return 0
}
