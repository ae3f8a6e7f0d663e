// Package box says what a cluster in a box is: its settings, its directory,
// the names and addresses that follow from them, and its processes.
//
// The one idea: everything about a box follows from its name and its Spec, so
// any process (the command line, the supervisor, a node, `down` after a crash)
// finds what another made without asking it.
//
//	spec := box.Default("viaduct")
//	dir := box.Dir("/var/lib/viaduct/viaduct")
//	err := dir.Save(spec)
//	node1 := spec.NodeAddresses(1)    // 172.20.0.11, fd00:172:20::11
package box
