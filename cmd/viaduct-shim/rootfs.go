//go:build linux && cgo

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

func (c *container) rootfs() string { return filepath.Join(c.dir, "rootfs") }

func (c *container) workingDir() string {
	if c.cfg.WorkingDir == "" {
		return "/"
	}
	return c.cfg.WorkingDir
}

// mount joins the image's layers and a writable one by overlayfs. Mount options
// must fit a page, so the layers go by short relative names.
func (c *container) mount() error {
	links := filepath.Join(c.dir, "l")
	for _, d := range []string{links, filepath.Join(c.dir, "upper"), filepath.Join(c.dir, "work"), c.rootfs()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make the container's directories: %w", err)
		}
	}
	if len(c.cfg.Layers) == 0 {
		return errors.New("the image has no layers")
	}
	var lower []string
	for i, layer := range c.cfg.Layers {
		name := strconv.Itoa(i)
		if err := os.Symlink(layer, filepath.Join(links, name)); err != nil {
			return fmt.Errorf("make the container's directories: %w", err)
		}
		lower = append([]string{"l/" + name}, lower...) // the topmost first
	}
	options := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=upper,workdir=work"
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // this thread alone changes its working directory, and ends
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Chdir(c.dir)
		}
		if err == nil {
			err = unix.Mount("overlay", "rootfs", "overlay", 0, options)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("mount the image's layers: %w", err)
	}
	return nil
}

func (c *container) unmount() {
	unix.Unmount(c.rootfs(), unix.MNT_DETACH)
	c.unpin()
}

// makeWorkingDir makes the working directory where the image lacks it, as other
// runtimes do.
func (c *container) makeWorkingDir() error {
	root, err := os.OpenRoot(c.rootfs())
	if err != nil {
		return err
	}
	defer root.Close()
	dir := strings.TrimPrefix(filepath.Clean("/"+c.workingDir()), "/")
	if dir == "" {
		return nil
	}
	if _, err := root.Stat(dir); err == nil || !errors.Is(err, os.ErrNotExist) {
		return nil // it is there, or behind a link that only the container can follow
	}
	if err := root.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the working directory %s: %w", c.workingDir(), err)
	}
	return root.Chown(dir, c.user.uid, c.user.gid)
}

// execUser is who a program runs as.
type execUser struct {
	uid, gid int
	groups   []int
	home     string
}

// lookUpUser finds a user of the image by name or number.
func lookUpUser(rootfs, spec string, supplemental []int64) (execUser, error) {
	passwd, group := openInRoot(rootfs, "etc/passwd"), openInRoot(rootfs, "etc/group")
	defer passwd.Close()
	defer group.Close()
	u, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, passwd, group)
	if err != nil {
		return execUser{}, fmt.Errorf("find user %q in the image: %w", spec, err)
	}
	groups := u.Sgids
	for _, g := range supplemental {
		groups = append(groups, int(g))
	}
	return execUser{uid: u.Uid, gid: u.Gid, groups: groups, home: u.Home}, nil
}

// openInRoot opens a file of the image, never one outside it. One that is not
// there reads as empty.
func openInRoot(rootfs, name string) *os.File {
	if f, err := os.OpenInRoot(rootfs, name); err == nil {
		return f
	}
	f, _ := os.Open(os.DevNull)
	return f
}

// withHome adds HOME where the environment does not say it.
func withHome(env []string, home string) []string {
	for _, e := range env {
		if strings.HasPrefix(e, "HOME=") {
			return env
		}
	}
	return append(append([]string(nil), env...), "HOME="+home)
}
