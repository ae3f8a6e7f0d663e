package builtin

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A container's log has a bound, also when all of it is one line.
func TestALineThatNeverEndsDoesNotFillTheDisk(t *testing.T) {
	h := newHost(t)
	p, cfg := h.pod(t)
	c := h.container(cfg, "endless-0", "cat", "/dev/zero")
	run(t, p, c)
	files := func() (paths []string, size int64) {
		paths, _ = filepath.Glob(c.LogPath + "*")
		for _, path := range paths {
			if info, err := os.Stat(path); err == nil {
				size += info.Size()
			}
		}
		return paths, size
	}
	oldest := c.LogPath + ".4"
	deadline := time.After(30 * time.Second)
	var before os.FileInfo
	for replaced := false; !replaced; {
		now, err := os.Stat(oldest)
		switch {
		case err != nil:
		case before == nil:
			before = now
		default:
			replaced = !os.SameFile(before, now)
		}
		paths, size := files()
		if len(paths) > 5 || size > 64<<20 {
			t.Fatalf("%d bytes in %v", size, paths)
		}
		select {
		case <-deadline:
			t.Fatalf("nothing was thrown away: %d bytes in %v", size, paths)
		case <-time.After(time.Millisecond):
		}
	}
	if err := p.Signal(t.Context(), "endless-0", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ended(t, p, "endless-0")
}
