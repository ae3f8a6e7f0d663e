package node

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// A node's heap is small and its garbage is too; half as much again as what is
// alive is room enough.
const gcPercent = 50

// settleMemory gives back the memory that only the start has needed: garbage, and the
// pages of the program that no one will look at again (initialisers, tables of
// types, programs that travel inside). A page that is needed after all comes
// back from the page cache.
func settleMemory() error {
	debug.SetGCPercent(gcPercent)
	debug.FreeOSMemory()
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("give memory back: %w", err)
	}
	defer f.Close()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("give memory back: %w", err)
	}
	for _, m := range programMaps(f, self) {
		// Only ranges that cannot be written: their pages are the file's.
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED)
		if errno != 0 {
			return fmt.Errorf("give memory back: %w", errno)
		}
	}
	return nil
}

type memoryMap struct{ start, end uintptr }

// programMaps finds the ranges of a program's file that are mapped without the
// right to write.
func programMaps(maps io.Reader, program string) []memoryMap {
	var all []memoryMap
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		// start-end rights offset device inode path
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || strings.Join(fields[5:], " ") != program || strings.Contains(fields[1], "w") {
			continue
		}
		var m memoryMap
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &m.start, &m.end); err == nil {
			all = append(all, m)
		}
	}
	return all
}
