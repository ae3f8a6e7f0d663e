// Package nftables programs a servicetable into the kernel over netlink, with no
// other program's help.
//
// The one idea: the rules are constant, Services are data. Each family has one
// table, viaduct, whose chains and rules are made once, before any data; a
// frontend is an element of a map to a number that says all about it, a backend
// an element of another (pool, slot to address and port). A change is a handful
// of elements in one transaction, whatever the number of Services.
//
//	packet -> svc:  frontend -> number (pool, size class or verdict, affinity, who is hidden)
//	       -> lb:   size class -> the chain that draws a slot; or refuses, or drops
//	       -> eps:  pool, slot -> backend, DNAT
//	       -> sent: the number again, by what conntrack remembers -> bind the client, hide it
//
// The number travels in skb->priority of the connection's first packet, and is
// reset before it leaves: no mark is used. All of it is in nat chains, which see
// first packets only. docs/nftables.md shows the rules in nft's syntax and how to
// find a Service in its listing.
//
// Read ruleset.go first, then number.go, elements.go (a Diff as elements) and
// apply.go (elements as transactions). adopt.go takes an earlier process's table
// over, monitor.go hears of others' work where tables have no owner.
package nftables
