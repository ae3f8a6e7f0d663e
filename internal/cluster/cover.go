package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// cover shows other content at paths of this mount namespace, which must be
// private. It needs a directory of its own that is gone with the namespace.
type cover struct{ scratch string }

// file covers one file. Symbolic links are followed; where they lead to
// nothing, the file is made, in a layer over the directory.
func (c cover) file(path string, content []byte) error {
	source := filepath.Join(c.scratch, filepath.Base(path))
	if err := os.WriteFile(source, content, 0o644); err != nil {
		return fmt.Errorf("cover %s: %w", path, err)
	}
	target, err := destination(path)
	if err != nil {
		return fmt.Errorf("cover %s: %w", path, err)
	}
	if _, err := os.Stat(target); errors.Is(err, os.ErrNotExist) {
		if err := c.make(target); err != nil {
			return fmt.Errorf("cover %s: %w", path, err)
		}
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cover %s: %w", path, err)
	}
	return nil
}

// make makes a file that nobody outside this mount namespace sees.
func (c cover) make(path string) error {
	dir := filepath.Dir(path)
	for { // the nearest directory that is there
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			break
		}
		dir = filepath.Dir(dir)
	}
	upper, err := os.MkdirTemp(c.scratch, "upper")
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(c.scratch, "work")
	if err != nil {
		return err
	}
	if err := os.Chmod(upper, 0o755); err != nil {
		return err
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)
	if err := unix.Mount("overlay", dir, "overlay", 0, options); err != nil {
		return fmt.Errorf("lay over %s: %w", dir, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o644)
}

// destination follows symbolic links, also to where nothing is.
func destination(path string) (string, error) {
	for range 40 { // as many as the kernel follows
		to, err := os.Readlink(path)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, os.ErrNotExist) {
			return path, nil
		}
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	return "", unix.ELOOP
}
