package builtin

import (
	"context"
	"sync"

	"viaduct.dev/viaduct/internal/agent/runtime/builtin/shimapi"
)

// EndContainers tells every container of the Pods in these directories to end,
// by its stop signal, and waits until those that listen have, or until ctx ends.
// What is left then is for whoever ends the Pods. A Pod that is gone is no error.
//
// It is for the end of a cluster, when no agent is left to stop Pods one by one.
func EndContainers(ctx context.Context, stateDirs []string) {
	var all sync.WaitGroup
	for _, dir := range stateDirs {
		all.Go(func() {
			_ = call(ctx, runtimeDir(dir), shimapi.Request{Op: shimapi.OpEnd}, &shimapi.Response{})
		})
	}
	all.Wait()
}
