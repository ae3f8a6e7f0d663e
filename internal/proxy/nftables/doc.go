// Package nftables programs a servicetable into the kernel over netlink, with no
// other program's help.
//
// The one idea: the rules are constant, Services are data. Each family has one
// table, viaduct, whose chains and rules are made once, before any data; a
// frontend is an element of a map (to a number: the size class of its pool and
// the pool), a backend an element of another (pool, slot to address and port).
// A change is a handful of elements in one transaction, whatever the number of
// Services.
//
//	packet -> svc: frontend -> class, pool
//	       -> lb:  class -> the chain that draws a slot
//	       -> eps: pool, slot -> backend, DNAT
//
// A random slot is drawn below the class's size; a draw that misses is made
// again. What answers must come back through this node is given the node's own
// address (chain masquerade). The number between the two maps travels in
// skb->priority of the connection's first packet, and is reset before it leaves.
package nftables
