// Package proxy carries the API's Services to a node's data plane.
//
// The one idea: objects come in by watches and are entered into the pure service
// table; what a batch of them changes is one small diff, which the data plane
// programs in one transaction. There is no pause between: while one diff is
// programmed, the next objects gather.
//
//	watch -> servicetable -> Diff -> nftables, then conntrack
//
// A process that comes back takes over what the kernel holds and writes only
// what is different.
package proxy
