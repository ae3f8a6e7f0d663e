package main

import (
	"github.com/spf13/cobra"

	"viaduct.dev/viaduct/internal/cluster"
)

func newDown(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End a cluster and remove all of it, also after a crash",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := g.dir()
			if err != nil {
				return err
			}
			return cluster.Down(cmd.Context(), g.name, dir, cmd.OutOrStdout())
		},
	}
}
