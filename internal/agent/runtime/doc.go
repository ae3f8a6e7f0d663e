// Package runtime says what the agent asks of a container runtime.
//
// The one idea: a Pod is one thing that outlives the agent. It holds the Pod's
// namespaces, its containers, their logs and their exit statuses, and is found
// again by its directory after the agent has been restarted. The agent decides
// (which container, when, with which environment); a runtime only carries out.
//
// There are two implementations: builtin (runc's libcontainer in a small shim)
// and the fake that the agent's own tests use.
package runtime
