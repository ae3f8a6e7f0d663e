package store

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
)

// A start that replays its log while it stands for election is where raft once
// missed entries that had been dropped too early.
func TestALongLogIsReplayedAtEveryStart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	const writers, writes = 32, 60 // fewer than a snapshot takes, all in one batch
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := range writes {
				if _, err := s.Client().Put(t.Context(), fmt.Sprintf("/%d/%d", w, i), "x"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writing.Wait()
	s.Close()
	for i := range 12 {
		if i == 10 {
			removeSnapshots(t, dir) // as if it had been killed before the first
		}
		s := open(t, dir)
		got, err := s.Client().Get(t.Context(), "/0/0")
		if err != nil || len(got.Kvs) != 1 {
			t.Fatalf("got %v %v", got, err)
		}
		s.Close()
	}
}

func removeSnapshots(t *testing.T, dir string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "etcd", "member", "snap", "*.snap"))
	if err != nil || len(paths) == 0 && !raceDetector {
		t.Fatalf("snapshots are %v (%v)", paths, err)
	}
	for _, path := range paths {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// Killed between its log's first byte and its first commit, etcd would wait for
// ever for an election without voters.
func TestALogWithoutACommitIsBegunAnew(t *testing.T) {
	dir := t.TempDir()
	cfg, err := serverConfig(filepath.Join(dir, "etcd"), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(cfg.SnapDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := wal.Create(cfg.Logger, cfg.WALDir(), []byte("who and where"))
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	if _, err := s.Client().Put(t.Context(), "/a", "b"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	// From the first commit on nothing is forgotten, with a snapshot or without.
	removeSnapshots(t, dir)
	s = open(t, dir)
	if got, err := s.Client().Get(t.Context(), "/a"); err != nil || len(got.Kvs) != 1 {
		t.Errorf("got %v %v", got, err)
	}
}
