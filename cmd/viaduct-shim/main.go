//go:build linux && cgo

// Command viaduct-shim holds one Pod.
//
// It is started by the agent in namespaces of its own (network, mount, IPC,
// UTS), starts the Pod's containers through runc's libcontainer, writes their
// logs and keeps their exit statuses. It outlives the agent, which finds it
// again by its socket. A container's file system is mounted in the shim's own
// mount namespace, so that it goes away with the Pod and is never seen on the
// host.
//
// The same binary is libcontainer's init: `viaduct-shim init` runs inside a
// new container until it executes the container's program.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	_ "github.com/opencontainers/cgroups/devices" // lets libcontainer set device rules
	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
)

func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		libcontainer.Init()
	}
}

func main() {
	if len(os.Args) != 3 || os.Args[1] != "pod" {
		fmt.Fprintln(os.Stderr, "usage: viaduct-shim pod DIRECTORY (it is started by the agent)")
		os.Exit(2)
	}
	// One shim runs for each Pod and mostly sleeps: memory matters more than
	// the time that a collection takes.
	debug.SetGCPercent(20)
	// The agent's death or a terminal's must not end the Pod.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	if err := run(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "viaduct-shim:", err)
		os.Exit(1)
	}
}
