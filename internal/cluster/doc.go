// Package cluster is what the command line does to clusters in a box: up, down,
// status, list, and a program run inside.
//
//	box/         what a box is: settings, directory, addresses, processes
//	fabric/      its namespaces and what joins them
//	supervisor/  the process on the host's side
//	node/        a node's process: all roles, wired together
//	link/        what those two say to each other
//	control/     how the supervisor is asked
//	relay/       connections and datagrams from the host into a box
//
// The one idea: the lock file in a cluster's directory says whether it runs.
// Whoever holds the lock may change what is recorded there; `up` takes it and
// hands it to the supervisor, so there is no moment at which two run.
package cluster
