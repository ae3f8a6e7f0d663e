//go:build linux && cgo

package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runc/libcontainer/capabilities"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"viaduct.dev/viaduct/internal/agent/runtime"
)

// defaultCapabilities are those that OCI runtimes leave to a container's root.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// maskedPaths and readonlyPaths are those of the OCI default, which keep the
// machine's own state from containers.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// spec is the container in the OCI runtime specification's terms.
func (c *container) spec(p *pod) *specs.Spec {
	score := oomScoreAdj(c.cfg.Resources.OOMScoreAdj)
	s := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: c.rootfs(), Readonly: c.cfg.ReadOnlyRootfs},
		Process: &specs.Process{
			Args:            c.cfg.Args,
			Cwd:             c.workingDir(),
			NoNewPrivileges: c.cfg.NoNewPrivileges,
			OOMScoreAdj:     &score,
			Terminal:        c.cfg.TTY,
		},
		Mounts: c.mounts(p),
		Linux: &specs.Linux{
			CgroupsPath: filepath.Join(p.cfg.CgroupPath, c.cfg.ID),
			Namespaces:  c.namespaces(p),
			Resources:   c.resources(),
		},
	}
	if !c.cfg.Privileged {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = maskedPaths, readonlyPaths
	}
	return s
}

func (c *container) namespaces(p *pod) []specs.LinuxNamespace {
	own := func(name string) string { return fmt.Sprintf("/proc/%d/ns/%s", os.Getpid(), name) }
	ns := []specs.LinuxNamespace{
		{Type: specs.MountNamespace},
		// The Pod's are the shim's own.
		{Type: specs.NetworkNamespace, Path: own("net")},
		{Type: specs.IPCNamespace, Path: own("ipc")},
		{Type: specs.UTSNamespace, Path: own("uts")},
	}
	if !p.cfg.HostPID {
		ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	if !c.cfg.Privileged {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return ns
}

func (c *container) mounts(p *pod) []specs.Mount {
	sys := "ro"
	if c.cfg.Privileged {
		sys = "rw"
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "bind", Source: filepath.Join(p.dir, "shm"), Options: []string{"rbind", "rw"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", sys}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", sys}},
	}
	own := slices.Clone(c.cfg.Mounts)
	// A mount below another comes after it.
	slices.SortStableFunc(own, func(a, b runtime.Mount) int {
		return cmp.Compare(strings.Count(filepath.Clean(a.ContainerPath), "/"), strings.Count(filepath.Clean(b.ContainerPath), "/"))
	})
	for _, m := range own {
		mode := "rw"
		if m.ReadOnly {
			mode = "ro"
		}
		mounts = slices.DeleteFunc(mounts, func(d specs.Mount) bool { return d.Destination == filepath.Clean(m.ContainerPath) })
		mounts = append(mounts, specs.Mount{
			Destination: m.ContainerPath, Type: "bind", Source: m.HostPath, Options: []string{"rbind", "rprivate", mode},
		})
	}
	return mounts
}

func (c *container) resources() *specs.LinuxResources {
	r := c.cfg.Resources
	out := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: c.cfg.Privileged, Access: "rwm"}},
		CPU:     &specs.LinuxCPU{},
		Memory:  &specs.LinuxMemory{},
	}
	if r.CPUShares > 0 {
		out.CPU.Shares = &r.CPUShares
	}
	if r.CPUQuota > 0 {
		out.CPU.Quota, out.CPU.Period = &r.CPUQuota, &r.CPUPeriod
	}
	if r.MemoryLimit > 0 {
		out.Memory.Limit = &r.MemoryLimit
	}
	if r.PidsLimit > 0 {
		out.Pids = &specs.LinuxPids{Limit: &r.PidsLimit}
	}
	return out
}

// capabilities are the default set with what the Pod adds and drops. A program
// that is not root starts without any in effect, and may gain those of the
// bounding set through files that grant them.
func (c *container) capabilities() *configs.Capabilities {
	set := slices.Clone(defaultCapabilities)
	if c.cfg.Privileged {
		set = capabilities.KnownCapabilities()
	}
	named := func(list []string, name string) bool {
		return slices.ContainsFunc(list, func(n string) bool {
			return strings.EqualFold(strings.TrimPrefix(strings.ToUpper(n), "CAP_"), name)
		})
	}
	if named(c.cfg.AddCapabilities, "ALL") {
		set = capabilities.KnownCapabilities()
	}
	if named(c.cfg.DropCapabilities, "ALL") {
		set = nil
	}
	for _, known := range capabilities.KnownCapabilities() {
		short := strings.TrimPrefix(known, "CAP_")
		if named(c.cfg.AddCapabilities, short) && !slices.Contains(set, known) {
			set = append(set, known)
		}
	}
	set = slices.DeleteFunc(set, func(n string) bool { return named(c.cfg.DropCapabilities, strings.TrimPrefix(n, "CAP_")) })
	caps := &configs.Capabilities{Bounding: set}
	if c.user.uid == 0 {
		caps.Effective, caps.Permitted = set, set
	}
	return caps
}
