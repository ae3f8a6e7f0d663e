// Package supervisor is the one process of a box that stands in the host's
// network namespace: it starts the nodes' processes and starts them again,
// opens the ports that are offered on 127.0.0.1, pulls images, and answers the
// command line.
//
// The one idea: it decides nothing about Services. It knows no API and keeps no
// state but sockets and processes, so that it is small and never in the way;
// whatever it opens it hands to the first node over the link.
//
//	supervisor.go  Run: the order in which things start and stop
//	nodes.go       a node's process: started, watched, started again
//	ports.go       sockets on 127.0.0.1, handed to the first node
//	serve.go       what the command line and the nodes ask
//	upstream.go    sockets to the host's resolvers, where asked for
package supervisor
