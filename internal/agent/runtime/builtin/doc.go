// Package builtin runs Pods with nothing installed: each Pod is held by a small
// shim (cmd/viaduct-shim), which travels inside the binary and starts
// containers through runc's libcontainer.
//
// The one idea: the agent's process holds nothing of a Pod. All that it needs
// to find one again is the Pod's directory:
//
//	StateDir/runtime/pod.json    what it was made from
//	                 shim.sock   the shim's socket (package shimapi)
//	                 shim.pid    its process and start time
//	                 containers/ writable layers and mount points
//
// A Pod whose shim was killed is gone; CleanUp then kills what is left in its
// cgroups and removes it.
package builtin
