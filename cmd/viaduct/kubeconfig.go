package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"viaduct.dev/viaduct/internal/cluster/box"
)

func newKubeconfig(g *global) *cobra.Command {
	return &cobra.Command{
		Use:     "kubeconfig",
		Short:   "Print the administrator's kubeconfig",
		Example: "  viaduct kubeconfig > kc; kubectl --kubeconfig kc get nodes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := g.dir()
			if err != nil {
				return err
			}
			text, err := os.ReadFile(dir.Kubeconfig())
			if errors.Is(err, os.ErrNotExist) {
				err = fmt.Errorf("%s: %w", g.name, box.ErrNoCluster)
			}
			if err != nil {
				return fmt.Errorf("kubeconfig: %w", err)
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
}
