// Package allocator hands out cluster IPs and node ports.
//
// The one idea: a range is a set of numbers with a band at its bottom that is
// left to those who ask for a number by name. Automatic allocation starts above
// the band and enters it only when the rest is full, so that a Service made by
// hand (the cluster's DNS at 10.96.0.10) rarely finds its number taken
// (KEP-3070 for addresses, KEP-3668 for node ports).
//
//	ips, err := allocator.NewAddresses(netip.MustParsePrefix("10.96.0.0/12"))
//	err = ips.Allocate(netip.MustParseAddr("10.96.0.10")) // asked for
//	ip, err := ips.AllocateNext(rand.Uint64N)             // any
//
// The package is pure: chance comes from the caller, and so does what keeps two
// servers apart. Nothing here may be called concurrently.
package allocator
