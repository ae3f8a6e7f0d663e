package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"viaduct.dev/viaduct/internal/cluster/box"
)

// global are the flags that every command has.
type global struct {
	name, root string
	began      time.Time
}

func newRoot(began time.Time) *cobra.Command {
	g := &global{began: began}
	root := &cobra.Command{
		Use:   "viaduct",
		Short: "The whole Service layer of Kubernetes in one binary",
		Long: `Viaduct runs Kubernetes Services end to end: API, controllers, nodes with
running containers, proxy, DNS and load balancer, in its own network namespaces.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		// Flags before the command are the root's, also for a command that
		// takes its arguments unparsed.
		TraverseChildren: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q; `viaduct --help` lists them", args[0])
			}
			return nil
		},
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.PersistentFlags().StringVar(&g.name, "name", cmp.Or(os.Getenv("VIADUCT_NAME"), "viaduct"), "name of the cluster (VIADUCT_NAME)")
	root.PersistentFlags().StringVar(&g.root, "state-dir", cmp.Or(os.Getenv("VIADUCT_STATE_DIR"), box.DefaultRoot), "directory that holds the clusters' directories (VIADUCT_STATE_DIR)")
	root.AddCommand(
		newUp(g), newDown(g), newStatus(g), newList(g),
		newKubeconfig(g), newKubectl(g), newImage(g), newShell(g), newVersion(),
		newNode(), newProxy(),
	)
	return root
}

// dir is the directory of the cluster that the flags name.
func (g *global) dir() (box.Dir, error) {
	if err := box.ValidateName(g.name); err != nil {
		return "", err
	}
	root, err := filepath.Abs(g.root)
	if err != nil {
		return "", fmt.Errorf("find the state directory: %w", err)
	}
	return box.Dir(filepath.Join(resolved(root), g.name)), nil
}

// resolved is a path without symbolic links, as far as it is there: one directory
// has one name, whatever way it was given.
func resolved(path string) string {
	if r, err := filepath.EvalSymlinks(path); err == nil || path == "/" {
		return cmp.Or(r, path)
	}
	return filepath.Join(resolved(filepath.Dir(path)), filepath.Base(path))
}

// self is this very program, also when its file has been replaced.
const self = "/proc/self/exe"
