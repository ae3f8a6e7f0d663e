// Package dns answers the cluster's names on every node, from the node's own
// watch of the API.
//
// The one idea: the server never waits for anything but a packet. What it
// answers is kept up to date by the watch (package zone); names outside the
// cluster's zone and the reverse zones of its Services are refused, or asked of
// the upstreams that the configuration names.
//
//	err := dns.Run(ctx, dns.Config{
//		Domain: "cluster.local", Informers: factory, Log: log,
//		Listen: []netip.AddrPort{netip.MustParseAddrPort("10.96.0.10:53")},
//	})
package dns
