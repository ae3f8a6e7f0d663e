package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/agent/runtime/builtin"
	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/cluster/control"
	"viaduct.dev/viaduct/internal/cluster/fabric"
	"viaduct.dev/viaduct/internal/lab"
)

// A supervisor has so long to end by itself before it is killed.
const stopTimeout = 15 * time.Second

// Containers have so long to end by themselves when the cluster ends. Those that
// do not listen to their stop signal are not waited for.
const containerGrace = 2 * time.Second

// Down ends a cluster and removes all of it, whatever state it is in. It goes
// by the cluster's name and directory alone, so it is the same after a crash.
func Down(ctx context.Context, name string, dir box.Dir, out io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("down: it needs root, as `up` did")
	}
	if err := box.ValidateName(name); err != nil {
		return fmt.Errorf("down: %w", err)
	}
	owner, err := fabric.Owner(name)
	if err != nil {
		return fmt.Errorf("down: %w", err)
	}
	_, err = os.Stat(string(dir))
	exists := err == nil
	if !exists && owner != dir {
		if owner != "" {
			return fmt.Errorf("down: cluster %s is not in %s but in %s; see --state-dir", name, filepath.Dir(string(dir)), filepath.Dir(string(owner)))
		}
		fmt.Fprintf(out, "there is no cluster %s\n", name)
		return nil
	}
	if exists {
		lock, err := stop(ctx, dir)
		if err != nil {
			return fmt.Errorf("down: %w", err)
		}
		defer lock.Close()
	}
	if err := remove(ctx, name, dir, owner); err != nil {
		return fmt.Errorf("down: %w", err)
	}
	fmt.Fprintf(out, "cluster %s is gone\n", name)
	return nil
}

// stop ends the supervisor and the nodes, and gives the cluster's lock.
func stop(ctx context.Context, dir box.Dir) (*os.File, error) {
	f, err := lock(dir)
	if !errors.Is(err, errBusy) {
		return f, err
	}
	asked, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := control.NewClient(dir.Socket()).Stop(asked); err == nil {
		if f, err = waitForLock(asked, dir); !errors.Is(err, errBusy) {
			return f, err
		}
	}
	for _, p := range dir.Processes() {
		if p.Role != box.RoleShim {
			p.Kill()
		}
	}
	killed, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	return waitForLock(killed, dir)
}

// remove removes what there is of a cluster whose lock is held: processes
// first, because they hold the rest.
func remove(ctx context.Context, name string, dir, owner box.Dir) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	mine := owner == "" || owner == dir
	asked, over := context.WithTimeout(ctx, containerGrace)
	builtin.EndContainers(asked, dir.Pods())
	over()
	if err := endProcesses(ctx, name, dir, mine); err != nil {
		return err
	}
	if mine {
		if err := builtin.RemoveCgroups(ctx, box.CgroupPath(name)); err != nil {
			return err
		}
		removeEmptyCgroups(filepath.Dir(box.CgroupPath(name)))
		if err := fabric.Remove(name); err != nil {
			return err
		}
	}
	if err := unmountBelow(string(dir)); err != nil {
		return err
	}
	if err := os.RemoveAll(string(dir)); err != nil {
		return fmt.Errorf("remove the state directory: %w", err)
	}
	if root := filepath.Dir(string(dir)); root == box.DefaultRoot {
		_ = os.Remove(root) // only if no other cluster is in it
	}
	return nil
}

// endProcesses kills the cluster's processes and whatever else runs in its
// nodes' network namespaces, and waits until they are gone.
func endProcesses(ctx context.Context, name string, dir box.Dir, mine bool) error {
	for {
		left := dir.Processes()
		if mine {
			inside, err := processesInside(name)
			if err != nil {
				return err
			}
			left = append(left, inside...)
		}
		if len(left) == 0 {
			return nil
		}
		for _, p := range left {
			p.Kill()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d does not end: %w", left[0].PID, ctx.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// processesInside finds every process in a network namespace of the cluster,
// such as programs of `viaduct shell`.
func processesInside(cluster string) ([]box.Process, error) {
	entries, err := os.ReadDir(lab.Directory)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ours := map[uint64]bool{}
	for _, e := range entries {
		if !box.OwnsNamespace(cluster, e.Name()) {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(lab.Directory, e.Name()), &st); err == nil {
			ours[st.Ino] = true
		}
	}
	if len(ours) == 0 {
		return nil, nil
	}
	var here unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &here); err != nil {
		return nil, err
	}
	delete(ours, here.Ino) // a file that is only what a mount left
	var found []box.Process
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, link := range links {
		var st unix.Stat_t
		if err := unix.Stat(link, &st); err != nil || !ours[st.Ino] {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
		if p, err := box.NewProcess("", "", pid); err == nil && p.Alive() {
			found = append(found, p)
		}
	}
	return found, nil
}

// removeEmptyCgroups removes a cgroup from every hierarchy where nothing is in
// it any more.
func removeEmptyCgroups(path string) {
	const root = "/sys/fs/cgroup"
	_ = unix.Rmdir(filepath.Join(root, path))
	entries, _ := os.ReadDir(root)
	for _, e := range entries {
		if e.IsDir() {
			_ = unix.Rmdir(filepath.Join(root, e.Name(), path))
		}
	}
}

// unmountBelow unmounts everything below a directory, the latest first.
func unmountBelow(dir string) error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("look for mounts: %w", err)
	}
	lines := strings.Split(string(text), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		fields := strings.Fields(lines[i])
		if len(fields) < 5 {
			continue
		}
		at := unescape(fields[4])
		if !strings.HasPrefix(at, dir+"/") {
			continue
		}
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", at, err)
		}
	}
	return nil
}

// unescape undoes mountinfo's way of writing blanks: \040 and the like.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
