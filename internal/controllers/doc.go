// Package controllers runs the loops that make a cluster's objects true: each
// in a package of its own, on the one shape of package loop, and all of them by
// Run.
package controllers
