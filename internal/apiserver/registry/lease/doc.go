// Package lease serves coordination.k8s.io Leases: node heartbeats and leader
// election.
package lease
