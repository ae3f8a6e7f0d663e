// Package agent is the node: it turns the Pods that are bound to it into running
// containers and tells the API what became of them.
//
// The one idea: each Pod has one goroutine that owns all that is known of it (a
// worker). Whatever takes time (making the sandbox, pulling an image, starting
// a container, a probe, a hook) runs beside it and posts its result back; after
// each result the worker looks at the whole Pod and decides what is next
// (step), then publishes the Pod's status if it changed. Nothing is polled.
//
//	API watch --\                     /--> runtime (start, signal, exec)
//	runtime ------> worker: step() --+---> podnet, volumes, images
//	probes -----/        |            \--> probes, hooks
//	timers ----/         v
//	               status patch, delete
//
// Nothing of a Pod lives in this process alone: containers are held by the
// runtime, addresses and volumes by the Pod's directory, restart counts and
// readiness by the Pod's status. So a restarted agent goes on where the last one
// stood, and no container notices.
//
//	err := agent.Run(ctx, agent.Config{NodeName: "node-1", Client: client, ...})
//
// The kubelet's API (logs, exec, attach, port-forward) is served at :10250.
package agent
