package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// ErrNotSupported says that the running kernel lacks a feature.
var ErrNotSupported = errors.New("not supported by this kernel")

// ErrNotPermitted says that the kernel may have a feature, but refuses to say:
// root in an unprivileged container is not the machine's root.
var ErrNotPermitted = errors.New("not permitted here")

// Feature is something that a kernel has or has not.
type Feature struct {
	name  string
	needs string // where it comes from
	right string // the capability to use it
	probe func() error

	once sync.Once
	err  error
}

// What Viaduct stands on.
var (
	Namespaces = &Feature{
		name:  "namespaces",
		needs: "Linux 3.8 with CONFIG_NET_NS, CONFIG_PID_NS, CONFIG_IPC_NS and CONFIG_UTS_NS",
		probe: probeNamespaces,
	}
	Overlay = &Feature{
		name:  "overlayfs",
		needs: "Linux 3.18 with CONFIG_OVERLAY_FS",
		right: "CAP_SYS_ADMIN",
		probe: probeOverlay,
	}
	Cgroups = &Feature{
		name:  "cgroups",
		needs: "cgroup v2, or v1's memory, cpu and pids, mounted on /sys/fs/cgroup",
		probe: probeCgroups,
	}
	NFTables = &Feature{
		name:  "nftables",
		needs: "Linux 3.13 with CONFIG_NF_TABLES",
		right: "CAP_NET_ADMIN",
		probe: probeNFTables,
	}
)

// Check names every one of the features that is missing; the error is an
// ErrNotSupported, or an ErrNotPermitted. Each is tried once per process.
func Check(features ...*Feature) error {
	var errs []error
	for _, f := range features {
		errs = append(errs, f.check())
	}
	return errors.Join(errs...)
}

func (f *Feature) check() error {
	f.once.Do(func() {
		switch err := f.probe(); {
		case errors.Is(err, fs.ErrPermission) && f.right != "":
			f.err = fmt.Errorf("%s: %w (needs %s, which root in an unprivileged container lacks): %w", f.name, ErrNotPermitted, f.right, err)
		case err != nil:
			f.err = fmt.Errorf("%s: %w (needs %s): %w", f.name, ErrNotSupported, f.needs, err)
		}
	})
	return f.err
}

func probeNamespaces() error {
	for _, kind := range []string{"net", "mnt", "pid", "ipc", "uts"} {
		if _, err := os.Stat("/proc/self/ns/" + kind); err != nil {
			return err
		}
	}
	return nil
}

// probeOverlay opens a context for a mount that is never made. The kernel loads
// the module for it.
func probeOverlay() error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open the file system: %w", err)
	}
	return unix.Close(fd)
}

func probeCgroups() error {
	const root = "/sys/fs/cgroup"
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return err
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return nil
	}
	for _, controller := range []string{"memory", "cpu", "pids"} {
		if err := unix.Statfs(root+"/"+controller, &st); err != nil || st.Type != unix.CGROUP_SUPER_MAGIC {
			return fmt.Errorf("%s/%s is no cgroup hierarchy", root, controller)
		}
	}
	return nil
}

// probeNFTables lists the tables, which changes nothing. The kernel loads the
// module for it.
func probeNFTables() error {
	conn, err := nftables.New()
	if err == nil {
		_, err = conn.ListTables()
	}
	return err
}
