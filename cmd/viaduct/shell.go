package main

import (
	"cmp"
	"os"

	"github.com/spf13/cobra"

	"viaduct.dev/viaduct/internal/cluster"
	"viaduct.dev/viaduct/internal/cluster/box"
)

func newShell(g *global) *cobra.Command {
	var node string
	cmd := &cobra.Command{
		Use:   "shell [--node NODE] [-- PROGRAM ARGUMENT...]",
		Short: "Run a program of the host inside a node's network, with the cluster's DNS",
		Example: `  viaduct shell -- curl -s http://frontend-svc.default
  viaduct shell --node node-2 -- ss -tln`,
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := g.dir()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				args = []string{cmp.Or(os.Getenv("SHELL"), "/bin/sh")}
			}
			restoreSignals()
			return cluster.Shell(dir, node, args)
		},
	}
	cmd.Flags().StringVar(&node, "node", box.NodeName(1), "the node")
	// What follows the program's name is the program's.
	cmd.Flags().SetInterspersed(false)
	return cmd
}
