// Command viaduct-supervisor is the process of a box that stands in the host's
// network namespace (package supervisor). It travels inside viaduct, which
// writes it to the cluster's directory and starts it: a program of its own,
// because one that holds the whole of Kubernetes is ten times as large.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/cluster/supervisor"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "viaduct-supervisor: it is started by `viaduct up`")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil)).With("part", "supervisor")
	if err := supervisor.RunInBackground(ctx, box.Dir(os.Args[1]), log); err != nil {
		log.Error("the supervisor has failed", "err", err)
		os.Exit(1)
	}
}
