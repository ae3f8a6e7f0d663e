package store

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// unpopulate gives back the memory of a mapped file. etcd's database asks the
// kernel to map every one of its pages at the opening, 16 MiB for the smallest;
// a cluster reads but few of them, and those come back when they are read.
func unpopulate(path string) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// start-end perms offset device inode path
		line := lines.Text()
		if !strings.HasSuffix(line, " "+path) {
			continue
		}
		first, last, ok := strings.Cut(strings.Fields(line)[0], "-")
		start, startErr := strconv.ParseUint(first, 16, 64)
		end, endErr := strconv.ParseUint(last, 16, 64)
		if !ok || startErr != nil || endErr != nil {
			return fmt.Errorf("read /proc/self/maps: %q", line)
		}
		// The pages of a shared file mapping are only unmapped by this advice.
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(start), uintptr(end-start), unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("advise the kernel about %s: %w", path, errno)
		}
	}
	return lines.Err()
}
