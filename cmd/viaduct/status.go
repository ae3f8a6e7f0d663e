package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"viaduct.dev/viaduct/internal/cluster"
)

func newStatus(g *global) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show a cluster's nodes, processes, published ports and log",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := g.dir()
			if err != nil {
				return err
			}
			s, err := cluster.Inspect(cmd.Context(), dir)
			if err != nil {
				return fmt.Errorf("status: %w", err)
			}
			switch output {
			case "json":
				return writeJSON(cmd.OutOrStdout(), s)
			case "":
				return writeStatus(cmd.OutOrStdout(), s)
			}
			return fmt.Errorf("status: --output: %q is not json", output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, or a text for reading")
	return cmd
}

func writeJSON(w io.Writer, v any) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(v)
}

func writeStatus(w io.Writer, s cluster.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "Cluster:\t%s, %s\n", s.Name, s.State)
	fmt.Fprintf(t, "API:\t%s\n", s.API)
	fmt.Fprintf(t, "Kubeconfig:\t%s\n", s.Kubeconfig)
	fmt.Fprintf(t, "Log:\t%s\n", s.Log)
	fmt.Fprintf(t, "State:\t%s\n", s.StateDir)
	t.Flush()
	fmt.Fprintln(t, "\nNODE\tADDRESSES\tREADY\tRESTARTS\tLAST END")
	for _, n := range s.Nodes {
		fmt.Fprintf(t, "%s\t%s\t%t\t%d\t%s\n", n.Name, joinAddrs(n.Addresses), n.Ready, n.Restarts, n.Error)
	}
	t.Flush()
	fmt.Fprintln(t, "\nPROCESS\tNODE\tPID")
	for _, p := range s.Processes {
		fmt.Fprintf(t, "%s\t%s\t%d\n", p.Role, p.Node, p.PID)
	}
	t.Flush()
	if len(s.Ports) > 0 {
		fmt.Fprintln(t, "\nSERVICE\tKIND\tPORT\tPROTOCOL\tON THE HOST")
	}
	for _, p := range s.Ports {
		at := fmt.Sprintf("127.0.0.1:%d", p.HostPort)
		if p.Error != "" {
			at = "not offered: " + p.Error
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\n", p.Service, p.Kind, p.Port, p.Protocol, at)
	}
	return t.Flush()
}

func joinAddrs(all []netip.Addr) string {
	var texts []string
	for _, a := range all {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ",")
}
