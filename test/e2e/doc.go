// Package e2e holds the end-to-end tests: a real box, started by the binary a
// user runs, driven by the clients a user has (kubectl, client-go, dig, curl),
// with real packets between real Pods.
//
// The one idea: a test asserts what a user would notice. Most tests share one
// cluster of three nodes, each in a namespace of its own; those that break a
// cluster (crashes, down) bring up their own.
package e2e
