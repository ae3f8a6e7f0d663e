package builtin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/agent/runtime"
)

// recordProcess remembers the shim, with the start time that tells it from a
// later process of the same number.
func recordProcess(dir string, pid int) error {
	start, err := startTime(pid)
	if err != nil {
		return fmt.Errorf("record the shim's process: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, "shim.pid"), fmt.Appendf(nil, "%d %s\n", pid, start), 0o600)
}

// startTime is a process's start in clock ticks since boot (proc(5), field 22).
func startTime(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The second field is the program's name, which may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return "", fmt.Errorf("read /proc/%d/stat: too short", pid)
	}
	return fields[19], nil
}

// CleanUp implements runtime.Runtime.
func (r *Runtime) CleanUp(ctx context.Context, stateDir string) error {
	return cleanUp(ctx, runtimeDir(stateDir))
}

func cleanUp(ctx context.Context, dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	killRecorded(dir)
	var cfg runtime.PodConfig
	if text, err := os.ReadFile(filepath.Join(dir, "pod.json")); err == nil && json.Unmarshal(text, &cfg) == nil && cfg.CgroupPath != "" {
		if err := RemoveCgroups(ctx, cfg.CgroupPath); err != nil {
			return fmt.Errorf("clean up pod %s/%s: %w", cfg.Namespace, cfg.Name, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("clean up pod %s/%s: %w", cfg.Namespace, cfg.Name, err)
	}
	return nil
}

// killRecorded ends the shim if it is still the process that was recorded.
func killRecorded(dir string) {
	text, err := os.ReadFile(filepath.Join(dir, "shim.pid"))
	if err != nil {
		return
	}
	number, start, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	pid, err := strconv.Atoi(number)
	if err != nil {
		return
	}
	if now, err := startTime(pid); err == nil && now == start {
		unix.Kill(pid, unix.SIGKILL)
	}
}

// cgroupRoots are the hierarchies that a cgroup may have a directory in: each
// controller's on v1, the one of v2.
func cgroupRoots() []string {
	roots := []string{"/sys/fs/cgroup"}
	entries, _ := os.ReadDir("/sys/fs/cgroup")
	for _, e := range entries {
		if e.IsDir() {
			roots = append(roots, filepath.Join("/sys/fs/cgroup", e.Name()))
		}
	}
	return roots
}

// RemoveCgroups kills every process below a cgroup path, in each hierarchy, and
// removes the cgroups. The path must be at least two names deep, so that no
// mistake reaches what is not ours.
func RemoveCgroups(ctx context.Context, path string) error {
	path = filepath.Clean("/" + path)
	if strings.Count(path, "/") < 2 {
		return fmt.Errorf("remove cgroup %s: refused, it is not a pod's", path)
	}
	for _, root := range cgroupRoots() {
		dir := filepath.Join(root, path)
		for {
			if _, err := os.Stat(dir); err != nil {
				break
			}
			if removeTree(dir) {
				break
			}
			// Killed processes leave their cgroup only when they have been
			// reaped, which takes a moment.
			select {
			case <-ctx.Done():
				return fmt.Errorf("remove cgroup %s: %w", dir, ctx.Err())
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	return nil
}

// removeTree kills what is in the cgroups below dir and removes those that are
// empty, deepest first; it says whether all are gone.
func removeTree(dir string) bool {
	var all []string
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		return nil
	})
	sort.Sort(sort.Reverse(sort.StringSlice(all)))
	gone := true
	for _, d := range all {
		procs, _ := os.ReadFile(filepath.Join(d, "cgroup.procs"))
		for _, f := range strings.Fields(string(procs)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 1 && pid != os.Getpid() {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
			gone = false
		}
	}
	return gone
}
