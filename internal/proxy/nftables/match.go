package nftables

import "golang.org/x/sys/unix"

// regs is the register after n bytes.
func (f family) regs(n uint32) uint32 { return reg0 + n/4 }

func (f family) front(addr expr) []expr {
	return []expr{addr, metaGet(unix.NFT_META_L4PROTO, f.regs(f.size)), payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, f.regs(f.size)+1)}
}

// dst is the frontend's key of a packet to it.
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

// rule joins expressions and lists of them.
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

const (
	stateInvalid = 1
	statusDNAT   = 0x20
)

func stateIs(bits uint32) []expr {
	return []expr{ct(ctState, reg0, false), and(reg0, native(bits)), compare(unix.NFT_CMP_NEQ, reg0, native(0))}
}

func translated() []expr {
	return []expr{ct(ctStatus, reg0, false), and(reg0, native(statusDNAT)), compare(unix.NFT_CMP_NEQ, reg0, native(0))}
}

// numberHas matches a packet whose number has one of these bits.
func numberHas(bits uint32) []expr {
	return []expr{metaGet(unix.NFT_META_PRIORITY, reg0), and(reg0, native(bits)), compare(unix.NFT_CMP_NEQ, reg0, native(0))}
}
