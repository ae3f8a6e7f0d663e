package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"viaduct.dev/viaduct/internal/cluster"
	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/cluster/node"
)

// newNode is what the supervisor starts inside a node's network namespace.
func newNode() *cobra.Command {
	return &cobra.Command{
		Use:    "node DIRECTORY NODE",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			nameProcess()
			return node.Start(cmd.Context(), box.Dir(args[0]), args[1], cluster.NewLogger(os.Stderr))
		},
	}
}

// nameProcess sets the name that ps shows, which is "exe" for a program that
// was started by /proc/self/exe.
func nameProcess() { _ = os.WriteFile("/proc/self/comm", []byte("viaduct"), 0) }

// restoreSignals gives signals back to a program that replaces this one or that
// handles them itself.
func restoreSignals() { signal.Reset(os.Interrupt, syscall.SIGTERM) }
