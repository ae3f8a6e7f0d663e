// Command proxy measures `viaduct proxy` side by side with kube-proxy, in
// nftables and in iptables mode, in one run: how soon a node serves, how soon a
// changed endpoint is reached, what that costs in CPU and memory, and what a
// connection through a cluster IP costs.
//
// Everything happens in network namespaces without a way out, made anew for
// every measured proxy, so that each begins with an empty kernel:
//
//	api ---- node ---- backends     every endpoint's address is local there
//	           `------ pod          a client whose packets the node forwards
//
// A proxy's start, restart and updates are seen from a client: by connections
// that reach an endpoint which says who it is. The machine is shared and noisy:
// rounds are interleaved, samples wait until nobody else has used the CPUs for a
// moment (and are counted when that did not happen in time), and ratios are what
// to read.
package main
