// Package announce makes a node answer for load-balancer addresses on the
// nodes' own network.
//
// The one idea: who answers for an address is a pure function of what every
// node can see (Owner, by rendezvous hashing over the nodes that can serve it),
// so that the nodes need not talk to each other: each answers ARP and NDP for
// the addresses that it finds itself the owner of, and only those move whose
// owner has gone. The address is on no interface; the proxy's rules take the
// packets that arrive for it.
package announce
