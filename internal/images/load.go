package images

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// refAnnotation names an image of an OCI layout (OCI image specification,
// annotations); containerd's and buildkit's own gives the whole reference.
const (
	refAnnotation  = "org.opencontainers.image.ref.name"
	nameAnnotation = "io.containerd.image.name"
)

// Load adds every image of an archive: a docker-archive (docker save) or an OCI
// layout, as a tar, a gzipped tar or a directory. It returns them by name.
func (s *Store) Load(ctx context.Context, path string) ([]Image, error) {
	loaded, err := s.load(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	return loaded, nil
}

func (s *Store) load(ctx context.Context, path string) ([]Image, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		plain, done, err := uncompressed(path)
		if err != nil {
			return nil, err
		}
		defer done()
		has, err := members(plain)
		if err != nil {
			return nil, fmt.Errorf("it is neither a docker-archive nor an OCI layout: %w", err)
		}
		switch {
		case has["manifest.json"]:
			return s.loadDocker(ctx, plain)
		case has["index.json"] && has["oci-layout"]:
			dir, err := os.MkdirTemp(s.dir, ".layout-")
			if err != nil {
				return nil, explain(err)
			}
			defer os.RemoveAll(dir)
			f, err := os.Open(plain)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			if err := untar(ctx, f, dir); err != nil {
				return nil, explain(err)
			}
			path = dir
		default:
			return nil, errors.New("it is neither a docker-archive (manifest.json) nor an OCI layout (oci-layout, index.json)")
		}
	}
	return s.loadLayout(ctx, path)
}

// uncompressed gives the path of a plain tar: the file itself, or a copy of
// what gzip holds.
func uncompressed(path string) (string, func(), error) {
	f, err := os.Open(path)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	in := bufio.NewReader(f)
	magic, _ := in.Peek(2)
	if len(magic) < 2 || magic[0] != 0x1f || magic[1] != 0x8b {
		return path, func() {}, nil
	}
	z, err := gzip.NewReader(in)
	if err != nil {
		return "", nil, err
	}
	tmp, err := os.CreateTemp("", "viaduct-image-")
	if err != nil {
		return "", nil, explain(err)
	}
	defer tmp.Close()
	if _, err := io.Copy(tmp, z); err != nil {
		os.Remove(tmp.Name())
		return "", nil, explain(err)
	}
	return tmp.Name(), func() { os.Remove(tmp.Name()) }, nil
}

// members are the names at the top of an archive.
func members(path string) (map[string]bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	has := map[string]bool{}
	archive := tar.NewReader(f)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return has, nil
		}
		if err != nil {
			return nil, err
		}
		has[filepath.Clean(h.Name)] = true
	}
}

func (s *Store) loadDocker(ctx context.Context, path string) ([]Image, error) {
	opener := func() (io.ReadCloser, error) { return os.Open(path) }
	manifest, err := tarball.LoadManifest(opener)
	if err != nil {
		return nil, err
	}
	var loaded []Image
	for _, m := range manifest {
		if len(m.RepoTags) == 0 {
			return nil, errors.New("an image in it has no name; save it with one (docker save NAME:TAG)")
		}
		tag, err := name.NewTag(m.RepoTags[0], name.WeakValidation)
		if err != nil {
			return nil, err
		}
		img, err := tarball.Image(opener, &tag)
		if err != nil {
			return nil, err
		}
		added, err := s.addNamed(ctx, img, m.RepoTags)
		if err != nil {
			return nil, err
		}
		loaded = append(loaded, added...)
	}
	return loaded, nil
}

func (s *Store) loadLayout(ctx context.Context, dir string) ([]Image, error) {
	idx, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	manifest, err := idx.IndexManifest()
	if err != nil {
		return nil, err
	}
	var loaded []Image
	for _, d := range manifest.Manifests {
		ref := d.Annotations[nameAnnotation]
		if ref == "" {
			ref = d.Annotations[refAnnotation]
		}
		if ref == "" {
			return nil, fmt.Errorf("image %s in it has no name (annotation %s)", d.Digest, refAnnotation)
		}
		img, err := platformImage(idx, d)
		if err != nil {
			return nil, err
		}
		added, err := s.addNamed(ctx, img, []string{ref})
		if err != nil {
			return nil, err
		}
		loaded = append(loaded, added...)
	}
	return loaded, nil
}

// platformImage gives the image of a descriptor; of an index, that for this
// platform.
func platformImage(idx v1.ImageIndex, d v1.Descriptor) (v1.Image, error) {
	if !d.MediaType.IsIndex() {
		return idx.Image(d.Digest)
	}
	inner, err := idx.ImageIndex(d.Digest)
	if err != nil {
		return nil, err
	}
	manifest, err := inner.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, m := range manifest.Manifests {
		if m.Platform == nil || m.Platform.OS == platform.OS && m.Platform.Architecture == platform.Architecture {
			return inner.Image(m.Digest)
		}
	}
	return nil, fmt.Errorf("image %s is not there for %s", d.Digest, platform)
}

// addNamed adds an image under each of its names.
func (s *Store) addNamed(ctx context.Context, img v1.Image, refs []string) ([]Image, error) {
	var names []string
	for _, r := range refs {
		n, err := Normalize(r)
		if err != nil {
			return nil, err
		}
		names = append(names, n)
	}
	added, err := s.add(ctx, img, names)
	if err != nil {
		return nil, err
	}
	var all []Image
	for _, n := range names {
		added.Name = n
		all = append(all, added)
	}
	return all, nil
}
