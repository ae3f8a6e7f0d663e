// Package node is the process of one node of a box: it makes every role and
// wires them together. It stands in the node's network namespace and never
// leaves it.
//
// The one idea: roles meet in the API. They share a client and the caches of
// one informer factory, and nothing else; so the order in which they start is
// the order in which they need the API, and this package is the only one that
// knows all of them.
//
//	node.go     Start: waits for the supervisor's word, runs the roles
//	control.go  the control plane, on the first node
//	roles.go    what runs on every node
//	ready.go    when the node does all that is asked of it
//	outside.go  sockets to upstream DNS servers, from the host
//	publish.go  ports of Services on the host, on the first node
package node
