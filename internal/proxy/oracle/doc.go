// Package oracle is a written model of what Services mean to one node: for a
// packet from a place to an address and port, which endpoints may answer, whom
// they see, or how the packet is turned away. Tests hold every data plane to it.
//
// The one idea: it is written from Kubernetes' documentation and from what
// kube-proxy 1.37 does in nftables mode, packet by packet and from the objects
// themselves, with nothing of servicetable, so that it can disagree with it. It
// has no state and no speed; it is to be read in one sitting.
//
//	c := oracle.Cluster{Node: node, Services: services, Slices: slices}
//	a := c.Answer(oracle.Packet{From: oracle.Outside, Source: src, To: to, Protocol: "TCP"})
//
// # Which Services count
//
// Those with a cluster IP that are not ExternalName, and that no label
// service.kubernetes.io/service-proxy-name hands to another proxy. A Service is
// of the families that its cluster IPs are of (KEP-563): in each, its ports are
// at the cluster IP; at every externalIP; at every load-balancer address
// whose ipMode is VIP or unset (KEP-1860), for type LoadBalancer; and at the node
// port, on those of the node's addresses that offer node ports, for types
// NodePort and LoadBalancer. Addresses that no packet may carry from host to host
// (loopback, link-local, multicast, unspecified) are passed over.
//
// A packet to a virtual address is that address's; a node port comes after it.
// Of two Services that claim the same, one that has it as its cluster IP goes
// before the other, then the one created first, then the first by name.
//
// # Which endpoints
//
// Those of the slices that name the Service by label, are of the family and do
// not belong to a headless Service (KEP-752); at the slice's port of the Service
// port's name and protocol. Conditions that are not given mean ready, serving and
// not terminating. An endpoint that is told more than once is ready if any of them
// says so, so that a Pod that took over the address of a dying one is not hidden.
//
//   - Policy Cluster: every ready endpoint. If every one of them has a hint for
//     nodes, and one names this node, only those that name it (KEP-3015); else if
//     every one has a hint for zones, and one names this node's zone, only those that
//     name it (KEP-2433, KEP-4444).
//   - Policy Local: the ready endpoints of this node; hints have no say (KEP-2086).
//   - In either, where no endpoint is ready: those that are terminating and still
//     serve (KEP-1669), of the same scope.
//
// # Which policy
//
//   - The cluster IP: internalTrafficPolicy, whoever calls (KEP-2086).
//   - All others: externalTrafficPolicy; but what starts on this node, in a Pod of
//     the cluster or in the node itself, is always Cluster's: the short cut stands for
//     the way out to the load balancer and back in.
//
// A Pod is known by its source address, or by its interface, as
// --detect-local-mode says. Where that says nothing of Pods, nobody is one.
//
// # Whom the endpoint sees
//
// The caller's own address is kept, except that it sees the node's
//
//   - from a caller who is no Pod, at a cluster IP (any node may be routed the
//     service range), or from everybody with --masquerade-all;
//   - at all others with externalTrafficPolicy Cluster;
//   - with externalTrafficPolicy Local, from the node itself: its packet may carry
//     the load-balancer address as its source;
//   - from an endpoint of this node that is sent back to itself (hairpin).
//
// An endpoint in the node's own network always sees the caller's: what does not
// leave the node again is not masqueraded.
//
// # Who is turned away
//
//   - A load-balancer address with loadBalancerSourceRanges drops callers from
//     elsewhere; if the node's own address is in a range, the load-balancer address
//     itself is let in too, since that is what the node calls with where it holds it.
//   - No endpoint anywhere: refused (RST or ICMP port unreachable).
//   - Policy Local, and none here though there is one elsewhere: dropped.
//   - A cluster IP's other ports: refused. Addresses of the service range that no
//     Service has: never forwarded.
//
// # Affinity
//
// With sessionAffinity ClientIP a caller who comes again to the same address and
// port stays with its endpoint while that is among those that may answer.
//
// # Where Viaduct departs from kube-proxy
//
//   - Conflicting claims are settled as above; kube-proxy takes one by chance. An
//     external IP that is the node's own address, at a port that is also a node port,
//     is settled by neither: the model says which comes first and nothing holds to it.
//   - Source ranges may be given by the older annotation as well, and ranges of one
//     family only shut the other; kube-proxy leaves that open.
//   - Addresses of the service range that nobody has may be refused; kube-proxy
//     drops them.
package oracle
