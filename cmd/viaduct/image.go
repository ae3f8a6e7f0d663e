package main

import (
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/images"
)

func newImage(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Load, pull and list the images of a cluster's nodes",
	}
	cmd.AddCommand(newImageLoad(g), newImagePull(g), newImageList(g))
	return cmd
}

// store opens the images of a cluster that is there, running or not.
func (g *global) store() (*images.Store, box.Dir, error) {
	dir, err := g.dir()
	if err != nil {
		return nil, "", err
	}
	if _, err := dir.Load(); err != nil {
		return nil, "", err
	}
	store, err := images.Open(dir.Images())
	return store, dir, err
}

func newImageLoad(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "load FILE...",
		Short: "Load images from archives, for all nodes",
		Long: `Load images from archives (docker save, or an OCI layout, also gzipped) or from a
directory with an OCI layout. "-" reads an archive from standard input.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, dir, err := g.store()
			if err != nil {
				return fmt.Errorf("image load: %w", err)
			}
			for _, path := range args {
				if path == "-" {
					var remove func()
					if path, remove, err = spool(dir, cmd.InOrStdin()); err != nil {
						return fmt.Errorf("image load: %w", err)
					}
					defer remove()
				}
				loaded, err := store.Load(cmd.Context(), path)
				if err != nil {
					return fmt.Errorf("image load: %w", err)
				}
				for _, image := range loaded {
					fmt.Fprintln(cmd.OutOrStdout(), "loaded", image.Name)
				}
			}
			return nil
		},
	}
}

// spool keeps an archive in a file, because it is read more than once.
func spool(dir box.Dir, in io.Reader) (path string, remove func(), err error) {
	f, err := os.CreateTemp(string(dir), "archive-*.tar")
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	remove = func() { os.Remove(f.Name()) }
	if _, err := io.Copy(f, in); err != nil {
		remove()
		return "", nil, fmt.Errorf("read standard input: %w", err)
	}
	return f.Name(), remove, nil
}

func newImagePull(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "pull NAME...",
		Short: "Fetch images from their registry, for all nodes",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, _, err := g.store()
			if err != nil {
				return fmt.Errorf("image pull: %w", err)
			}
			for _, name := range args {
				image, err := store.Pull(cmd.Context(), name)
				if err != nil {
					return fmt.Errorf("image pull: %w", err)
				}
				fmt.Fprintln(cmd.OutOrStdout(), "pulled", image.Name)
			}
			return nil
		},
	}
}

func newImageList(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the images that all nodes have",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, _, err := g.store()
			if err != nil {
				return fmt.Errorf("image list: %w", err)
			}
			all, err := store.List()
			if err != nil {
				return fmt.Errorf("image list: %w", err)
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "NAME\tID\tSIZE")
			for _, i := range all {
				fmt.Fprintf(t, "%s\t%.19s\t%.1f MB\n", i.Name, i.ID, float64(i.SizeBytes)/1e6)
			}
			return t.Flush()
		},
	}
}
