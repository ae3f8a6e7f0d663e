package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
)

func newKubectl(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [command]",
		Short: "kubectl, for this cluster",
		Long: `The kubectl of this Kubernetes release. It uses the cluster's kubeconfig unless
KUBECONFIG or --kubeconfig names another. Flags of viaduct itself stand before
the word kubectl.`,
		Example:            "  viaduct --name second kubectl get services -A",
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if os.Getenv("KUBECONFIG") == "" {
				dir, err := g.dir()
				if err != nil {
					return err
				}
				if _, err := dir.Load(); err != nil {
					return fmt.Errorf("kubectl: %w", err)
				}
				if err := os.Setenv("KUBECONFIG", dir.Kubeconfig()); err != nil {
					return err
				}
			}
			runKubectl(args)
			return nil
		},
	}
}

// runKubectl is kubectl's own main; it exits with kubectl's code if that is not
// zero. kubectl handles signals itself.
func runKubectl(args []string) {
	restoreSignals()
	config := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50)
	cmd := kubectl.NewDefaultKubectlCommandWithArgs(kubectl.KubectlOptions{
		PluginHandler: kubectl.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     append([]string{"kubectl"}, args...),
		ConfigFlags:   config,
		IOStreams:     genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
	})
	cmd.SetArgs(args)
	if err := cli.RunNoErrOutput(cmd); err != nil {
		cmdutil.CheckErr(err)
	}
}
