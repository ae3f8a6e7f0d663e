package store

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
)

const deadline = 20 * time.Second

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Dir: dir, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// smallDisk is a file system of so many bytes that is mounted nowhere: it is
// reached through a descriptor, and gone with it.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a file system")
	}
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatalf("open tmpfs (needs Linux >= 5.2): %v", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "size", fmt.Sprint(bytes)); err != nil {
		t.Fatal(err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		t.Fatal(err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(mount) })
	return fmt.Sprintf("/proc/self/fd/%d/data", mount)
}

func TestValuesSurviveReopening(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if _, err := s.Client().Put(t.Context(), "/a", "1"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir)
	got, err := s.Client().Get(t.Context(), "/a")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "1" {
		t.Errorf("got %v %v", got, err)
	}
}

func TestAFreshDirectoryIsSmall(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	var blocks int64
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var stat unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &stat)
		}
		blocks += stat.Blocks
		return err
	})
	if err != nil || blocks*512 > 16<<20 {
		t.Errorf("%d MiB are used (%v)", blocks*512>>20, err)
	}
}

func TestAFullDiskIsNamedAtTheStart(t *testing.T) {
	_, err := Open(t.Context(), Config{Dir: smallDisk(t, 4<<20), Log: quiet()})
	if err == nil || !strings.Contains(err.Error(), "disk full: 3 MiB free, 32 MiB needed") && !strings.Contains(err.Error(), "disk full: 4 MiB free, 32 MiB needed") {
		t.Errorf("got %v", err)
	}
}

func TestADiskThatFillsUpDuringTheStartIsNamed(t *testing.T) {
	dir := smallDisk(t, 2<<20)
	s := &Store{dir: dir, failed: make(chan error, 1)}
	if err := s.start(t.Context(), quiet()); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("got %v", err)
	} else {
		t.Log(err)
	}
}

func TestADiskThatFillsUpIsNamed(t *testing.T) {
	s := open(t, smallDisk(t, 40<<20))
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	value := strings.Repeat("x", 1<<20)
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			one, end := context.WithTimeout(ctx, time.Second)
			_, _ = s.Client().Put(one, fmt.Sprintf("/%d", i), value)
			end()
		}
	}()
	select {
	case err := <-s.Failed():
		if !strings.Contains(err.Error(), "disk full") {
			t.Errorf("got %v", err)
		}
		t.Log(err)
	case <-ctx.Done():
		t.Error("the store did not fail")
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := Open(ctx, Config{Dir: t.TempDir(), Log: quiet()}); err == nil {
		s.Close() // it was quicker than the context
	}
}

func TestWatchReportsProgressOnDemand(t *testing.T) {
	s := open(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	events := s.Client().Watch(ctx, "/a", clientv3.WithCreatedNotify())
	if created := <-events; !created.Created {
		t.Fatalf("got %v", created)
	}
	if err := s.Client().RequestProgress(ctx); err != nil {
		t.Fatal(err)
	}
	if event := <-events; !event.IsProgressNotify() {
		t.Errorf("got %v", event)
	}
}
