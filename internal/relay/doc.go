// Package relay carries connections and datagrams from a socket to wherever a
// dial function leads: how a port on the host's 127.0.0.1 becomes a port of a
// Service inside a box, and how a node's 127.0.0.1 offers its node ports.
//
// The one idea: a relay knows nothing of namespaces. The listening socket was
// opened in one of them and the dial function connects in another.
//
// The caller's address is not kept. A UDP caller keeps its own flow, so that
// its datagrams go to one endpoint, until it has been silent for a minute.
package relay
