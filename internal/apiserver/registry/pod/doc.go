// Package pod serves Pods: their life in the API (creation, binding to a node,
// graceful deletion) and the connections into them (log, exec, attach,
// portforward), which are passed on to the agent of their node.
package pod
