package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"viaduct.dev/viaduct/internal/cluster"
	"viaduct.dev/viaduct/internal/cluster/box"
)

func newUp(g *global) *cobra.Command {
	spec := box.Default("")
	o := cluster.UpOptions{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster in a box, or resume a dead one",
		Long: `Start a cluster and return when it is ready. A cluster that runs is left alone;
one that is dead is resumed with the settings it was made with.`,
		Example: `  viaduct up --nodes 3
  viaduct up --name second --service-cluster-ip-range 10.97.0.0/16
  viaduct up --dns-upstream`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Dir, err = g.dir(); err != nil {
				return err
			}
			spec.Name = g.name
			if !cmd.Flags().Changed("load-balancer-range") {
				spec.LoadBalancerRanges = spec.LoadBalancerShare()
			}
			o.Spec = spec
			o.Differs = func(stored box.Spec) error { return differs(cmd.Flags(), stored) }
			o.Began = g.began
			o.Out = cmd.OutOrStdout()
			o.Program = self
			return cluster.Up(cmd.Context(), o)
		},
	}
	bindSpec(cmd.Flags(), &spec)
	cmd.Flags().BoolVar(&o.Foreground, "foreground", false, "stay, and end the cluster's processes when interrupted")
	cmd.Flags().DurationVar(&o.Wait, "wait", time.Minute, "how long to wait until the cluster is ready")
	return cmd
}

// differs names the first flag that was given and asks for something else than
// what is stored.
func differs(given *pflag.FlagSet, stored box.Spec) error {
	have := pflag.NewFlagSet("", pflag.ContinueOnError)
	bindSpec(have, &stored)
	var err error
	given.Visit(func(f *pflag.Flag) {
		h := have.Lookup(f.Name)
		if err == nil && h != nil && h.Value.String() != f.Value.String() {
			err = fmt.Errorf("it was made with --%s=%s, not %s; `viaduct down` removes it", f.Name, h.Value, f.Value)
		}
	})
	return err
}
