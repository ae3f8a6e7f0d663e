//go:build linux && cgo

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// pinSubPaths replaces each mount of a part of a volume by one of a place that
// nobody in the Pod can reach, where that part is mounted by its descriptor:
//
//	openat2(volume, sub, BENEATH) -> fd -> bind mount of /proc/self/fd/N -> pin
//
// A path would be walked again when the container's file system is put together,
// and another container of the Pod could have made it a link out of the volume
// by then.
func (c *container) pinSubPaths(podDir string) error {
	for i := range c.cfg.Mounts {
		m := &c.cfg.Mounts[i]
		if m.SubPath == "" {
			continue
		}
		// Beside the container's directory, which is removed with all that is in it.
		pin := filepath.Join(podDir, "pins", c.cfg.ID, strconv.Itoa(i))
		if err := pinPath(m.HostPath, m.SubPath, pin); err != nil {
			return fmt.Errorf("mount subPath %q at %s: %w", m.SubPath, m.ContainerPath, err)
		}
		c.pins = append(c.pins, pin)
		m.HostPath, m.SubPath = pin, ""
	}
	return nil
}

func pinPath(volume, sub, pin string) error {
	root, err := os.Open(volume)
	if err != nil {
		return err
	}
	defer root.Close()
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(int(root.Fd()), sub, how)
	for tries := 0; tries < 100 && errors.Is(err, unix.EAGAIN); tries++ { // something was renamed on the way
		fd, err = unix.Openat2(int(root.Fd()), sub, how)
	}
	if errors.Is(err, unix.EXDEV) {
		return errors.New("it leads out of the volume")
	}
	if err != nil {
		return err
	}
	part := os.NewFile(uintptr(fd), sub)
	defer part.Close()
	info, err := part.Stat()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(pin), 0o700); err != nil {
		return err
	}
	unix.Unmount(pin, unix.MNT_DETACH) // left by a start that failed
	if info.IsDir() {
		err = os.Mkdir(pin, 0o700)
	} else {
		err = os.WriteFile(pin, nil, 0o600)
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), pin, "", unix.MS_BIND|unix.MS_REC, "")
}

// unpin lets go of what pinSubPaths held. Nothing is removed that is not empty:
// below a pin that could not be unmounted is the volume.
func (c *container) unpin() {
	for _, pin := range c.pins {
		if unix.Unmount(pin, unix.MNT_DETACH) == nil {
			os.Remove(pin)
		}
	}
	if len(c.pins) > 0 {
		os.Remove(filepath.Dir(c.pins[0]))
	}
	c.pins = nil
}
