// Package histories holds the proxy to the model of what Services mean, by random
// histories of small clusters.
//
// The one idea: a history is plain data, a list of steps, each an object that
// comes, changes or goes, or something that befalls the node. It is programmed
// step by step into a real namespace; after each step packets from every kind of
// place are sent, and what came of them is compared with internal/proxy/oracle. At
// the end the kernel's maps are compared with those of a fresh start.
//
//	make test-histories HISTORIES=2000 SEED=1
//
// # A history that fails
//
// rapid shrinks it and saves what it drew below testdata/rapid, which every later
// run replays first; and the history itself is written to testdata/failed.yaml. What
// rapid saved means something else once a generator changes, so what is worth
// keeping is kept as a history: move testdata/failed.yaml to
// testdata/histories/NAME.yaml, say at its top what was wrong, and delete the file of
// rapid's. TestKeptHistories replays those.
package histories
