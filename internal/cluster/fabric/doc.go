// Package fabric builds the network of a box: a namespace for each node, and
// one more with the bridge that joins them.
//
//	 viaduct-box-node-1        viaduct-box-node-2
//	+------------------+      +------------------+
//	| eth0 172.20.0.11 |      | eth0 172.20.0.12 |
//	+--------|---------+      +--------|---------+
//	+--------|-------------------------|---------+
//	|      node-1                    node-2      |
//	|      bridge "fabric" 172.20.0.1            |  viaduct-box-fabric
//	+--------------------------------------------+
//
// The one idea: there is no way out. The nodes' default route leads to the
// bridge, whose namespace has no other link and says "unreachable" to whatever
// is not on the nodes' network; so Service addresses have a route on the nodes,
// and a packet that no rule took fails at once instead of being lost.
//
// Namespaces are pinned by name, so they outlive their maker. Whose they are is
// written where it cannot outlive them: the bridge's alias is the directory of
// the cluster.
package fabric
