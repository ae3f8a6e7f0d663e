package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// The names by which a layer says what it removes from those below it (OCI
// image specification, "Whiteouts").
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// unpack writes a layer in the form that overlayfs reads, under a name of its
// content; one that is there is complete and is left alone.
func (s *Store) unpack(ctx context.Context, layer v1.Layer, dir string) error {
	return s.writeLayer(dir, func(tmp string) error {
		content, err := layer.Uncompressed()
		if err != nil {
			return err
		}
		defer content.Close()
		return untar(ctx, content, tmp)
	})
}

// untar writes an archive below dir. Every path is resolved below dir, so no
// entry reaches outside it, whatever links the archive has made.
func untar(ctx context.Context, content io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u := &unpacker{root: root}
	archive := tar.NewReader(content)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := u.entry(h, archive); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	return u.finish()
}

// unpacker writes entries; directories get their times when all is in them.
type unpacker struct {
	root *os.Root
	dirs []*tar.Header
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name := clean(h.Name)
	if name == "." {
		return nil
	}
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	if dir != "" {
		if err := u.root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if base == opaqueMarker {
		return u.inDir(dir, func(fd int) error {
			return unix.Fsetxattr(fd, "trusted.overlay.opaque", []byte("y"), 0)
		})
	}
	if removed, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		// overlayfs' own sign for "not there": a character device 0/0.
		return u.inDir(dir, func(fd int) error { return unix.Mknodat(fd, removed, unix.S_IFCHR, 0) })
	}

	mode := os.FileMode(h.Mode).Perm()
	if h.Typeflag != tar.TypeDir {
		if info, err := u.root.Lstat(name); err == nil {
			if info.IsDir() {
				return errors.New("replaces a directory of the same layer")
			}
			if err := u.root.Remove(name); err != nil {
				return err
			}
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := u.root.Mkdir(name, mode); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		u.dirs = append(u.dirs, h)
	case tar.TypeReg:
		f, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := u.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
	case tar.TypeLink:
		return u.root.Link(clean(h.Linkname), name) // shares its target's attributes
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
		err := u.inDir(dir, func(fd int) error {
			return unix.Mknodat(fd, base, kind|uint32(mode), int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
		})
		if err != nil {
			return err
		}
	default:
		return fmt.Errorf("entries of type %q are not supported", h.Typeflag)
	}
	return u.attributes(name, base, dir, h)
}

// attributes sets owner, extended attributes, mode and time, in the order in
// which one does not undo another.
func (u *unpacker) attributes(name, base, dir string, h *tar.Header) error {
	if err := u.root.Lchown(name, h.Uid, h.Gid); err != nil {
		return err
	}
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || h.Typeflag == tar.TypeSymlink || strings.HasPrefix(attr, "trusted.") {
			continue
		}
		f, err := u.root.Open(name)
		if err != nil {
			return err
		}
		err = unix.Fsetxattr(int(f.Fd()), attr, []byte(value), 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("set %s: %w", attr, err)
		}
	}
	if h.Typeflag == tar.TypeSymlink {
		return nil
	}
	if err := u.root.Chmod(name, h.FileInfo().Mode()); err != nil {
		return err
	}
	return u.root.Chtimes(name, time.Time{}, h.ModTime)
}

// inDir runs fn with a descriptor of a directory, for calls that os.Root lacks.
func (u *unpacker) inDir(dir string, fn func(fd int) error) error {
	if dir == "" {
		dir = "."
	}
	f, err := u.root.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return fn(int(f.Fd()))
}

func (u *unpacker) finish() error {
	for _, h := range u.dirs {
		if err := u.root.Chtimes(clean(h.Name), time.Time{}, h.ModTime); err != nil {
			return err
		}
	}
	return nil
}

// clean gives a path relative to the layer's root; leading ../ are dropped.
func clean(name string) string {
	p := strings.TrimPrefix(path.Clean("/"+name), "/")
	if p == "" {
		return "."
	}
	return p
}
