package store

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// residentKiB is how much of a mapped file is in this process's memory.
func residentKiB(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	kib, here, found := 0, false, false
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch {
		case strings.Contains(words[0], "-"): // the first line of a mapping
			here = strings.HasSuffix(lines.Text(), " "+path)
			found = found || here
		case here && words[0] == "Rss:":
			n, err := strconv.Atoi(words[1])
			if err != nil {
				t.Fatal(err)
			}
			kib += n
		}
	}
	if !found {
		t.Fatalf("%s is not mapped", path)
	}
	return kib
}

func TestAReopenedDatabaseIsNotAllInMemory(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if _, err := s.Client().Put(t.Context(), "/a", "1"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	open(t, dir)
	db := filepath.Join(dir, "etcd", "member", "snap", "db")
	info, err := os.Stat(db)
	if err != nil {
		t.Fatal(err)
	}
	if kib := residentKiB(t, db); int64(kib)<<10 > info.Size()/4 {
		t.Errorf("%d KiB of %d are in memory", kib, info.Size()>>10)
	}
}
