// Package scheduler chooses a node for each Pod that has none.
//
// The one idea: choosing is a pure function of the Pod, the nodes and what
// already stands on them (choose.go): first which nodes may take it, then which
// of those has fewest replicas of the same workload, then which is least full.
// A Pod that no node may take is tried again when a node or a Pod changes.
package scheduler
