package main

import (
	"fmt"

	"github.com/spf13/cobra"
	kubernetes "k8s.io/component-base/version"

	"viaduct.dev/viaduct/internal/version"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "viaduct %s (commit %s, Kubernetes %s)\n", version.Version(), version.Commit(), kubernetes.Get().GitVersion)
		},
	}
}
