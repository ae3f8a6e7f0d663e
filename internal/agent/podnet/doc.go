// Package podnet is the network of a node's Pods.
//
// The one idea: there is no bridge. Each Pod has a veth of its own, an address
// of its own (/32, /128) and one neighbour, the node, which it reaches at a
// link-local gateway; the node routes each Pod's address to its veth, and other
// nodes' ranges to those nodes. So every packet between Pods is routed and
// passes the node's hooks, where Services are.
//
//	Pod 10.244.0.5        node                             other node
//	eth0 ----------- vd3f9a01c2 (10.244.0.5 dev vd3f9a01c2)
//	  default via 169.254.1.1   10.244.1.0/24 via 172.20.0.12 --------> ...
//	  default via fe80::1       10.244.0.0/24 unreachable
//
// Neighbour entries are permanent on both sides and duplicate address detection
// is off, so that an address can be used as soon as it is set. What a Pod was
// given is written in its own directory, where a restarted agent finds it.
//
// Packets are never masqueraded here: the proxy does so where a Service needs it.
package podnet
