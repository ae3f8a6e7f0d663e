// Package kernel says whether the kernel has what Viaduct stands on, and names
// what is missing in words that a user can act on.
//
// The one idea: a feature is a name, where it comes from, and a probe that
// tries it without changing anything. Version numbers are not compared:
// distributions bring features back to old kernels, and leave them out of new
// ones.
//
//	err := kernel.Check(kernel.Overlay, kernel.NFTables)
//	// errors.Is(err, kernel.ErrNotSupported)
package kernel
