// Package lab makes hosts out of network namespaces: `viaduct up` builds its
// nodes with it, and every test that sends packets builds its networks.
//
// The one idea: a process stays in its namespace. What must happen in another
// one (a socket opened, an address set, a program started) happens on an OS
// thread that enters it and is then discarded; after that only descriptors
// travel.
//
//	host, err := lab.New()                         // lives as long as it is open
//	node, err := lab.Create("viaduct-box-node-1")  // also named below /run/netns
//	err = lab.Connect(host, "eth0", node, "eth0")
//	err = host.AddAddress("eth0", netip.MustParsePrefix("172.20.0.10/16"))
//	conn, err := host.DialContext(ctx, "tcp", "172.20.0.11:80")
//
// It is no sandbox: mounts, processes and users are the caller's.
package lab
