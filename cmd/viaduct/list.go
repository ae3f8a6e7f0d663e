package main

import (
	"fmt"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"viaduct.dev/viaduct/internal/cluster"
)

func newList(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the clusters of this machine",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			root, err := filepath.Abs(g.root)
			if err != nil {
				return fmt.Errorf("list: %w", err)
			}
			all, err := cluster.List(cmd.Context(), root)
			if err != nil {
				return err
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "NAME\tSTATE\tNODES\tAPI")
			for _, s := range all {
				fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", s.Name, s.State, len(s.Nodes), s.API)
			}
			return t.Flush()
		},
	}
}
