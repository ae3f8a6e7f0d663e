package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"viaduct.dev/viaduct/internal/cluster"
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
		RunE: func(cmd *cobra.Command, args []string) error {
			why := func() string { return "" } // another cluster's troubles are not known here
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
				why = func() string { return cluster.WhyNotReady(context.WithoutCancel(cmd.Context()), dir) }
			}
			runKubectl(args, why)
			return nil
		},
	}
}

// runKubectl is kubectl's own main; it exits with kubectl's code if that is not
// zero, and then adds what may explain it. kubectl handles signals itself.
func runKubectl(args []string, why func() string) {
	restoreSignals()
	cmdutil.BehaviorOnFatal(func(message string, code int) {
		if message != "" {
			fmt.Fprintln(os.Stderr, strings.TrimSuffix(message, "\n"))
		}
		if text := why(); text != "" {
			fmt.Fprintln(os.Stderr, "viaduct: "+text)
		}
		os.Exit(code)
	})
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
