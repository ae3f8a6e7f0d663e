// Package version says which Viaduct this is.
//
// The two values are set by the linker (see Makefile); a plain `go build` gives
// the defaults.
package version

var (
	version = "0.0.0-dev"
	commit  = "unknown"
)

// Version is Viaduct's own version, such as 0.1.0.
func Version() string { return version }

// Commit is the Git commit that the binary was built from, or "unknown".
func Commit() string { return commit }
