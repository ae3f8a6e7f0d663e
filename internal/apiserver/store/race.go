//go:build race

package store

// raceDetector: etcd 3.7 notes the wish for a snapshot in a plain variable that
// its applying goroutine reads. The worst that follows is a snapshot one write
// late; the race detector still reports it, so there it is not asked for.
const raceDetector = true
