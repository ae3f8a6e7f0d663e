package images

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// toolboxNames are the names of the built-in image.
var toolboxNames = []string{"docker.io/viaduct/toolbox:1", "docker.io/viaduct/toolbox:latest"}

// toolboxLinks are the commands that the toolbox offers under their own names.
var toolboxLinks = []string{"env", "cat", "ls", "touch", "hostname", "echo", "sleep", "true", "false"}

// EnsureToolbox makes the image viaduct/toolbox from its program, unless the
// store has it from the same one. It is on the way to a cluster's first answer,
// so the layer is written as it is, never packed and unpacked.
func (s *Store) EnsureToolbox(ctx context.Context, program []byte) error {
	id := fmt.Sprintf("sha256:%x", sha256.Sum256(program))
	if have, err := s.Lookup(toolboxNames[0]); err == nil && have.ID == id {
		return nil
	} else if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	err := s.change(func(idx *index) error {
		dir := "toolbox-" + id[len("sha256:"):]
		if err := s.writeToolbox(ctx, dir, program); err != nil {
			return explain(err)
		}
		idx.Images[id] = record{
			Image: Image{
				Name: toolboxNames[0], ID: id, Digest: id, SizeBytes: int64(len(program)),
				Entrypoint: []string{"/bin/toolbox"}, Cmd: []string{"serve"},
				Env: []string{"PATH=/bin"}, WorkingDir: "/",
			},
			LayerNames: []string{dir},
		}
		for _, n := range toolboxNames {
			idx.Names[n] = id
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("make the toolbox image: %w", err)
	}
	return nil
}

// writeToolbox writes a layer with the program, its links, and the directories
// that programs expect.
func (s *Store) writeToolbox(ctx context.Context, dir string, program []byte) error {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	headers := []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777},
		{Typeflag: tar.TypeReg, Name: "bin/toolbox", Mode: 0o755, Size: int64(len(program))},
	}
	for _, l := range toolboxLinks {
		headers = append(headers, &tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + l, Linkname: "toolbox"})
	}
	for _, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write(program); err != nil {
				return err
			}
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return s.writeLayer(dir, func(tmp string) error { return untar(ctx, &buf, tmp) })
}

// writeLayer fills a layer's directory, which appears complete or not at all.
func (s *Store) writeLayer(dir string, fill func(tmp string) error) error {
	final := filepath.Join(s.dir, "layers", dir)
	if _, err := os.Stat(final); err == nil {
		return nil
	}
	tmp, err := os.MkdirTemp(filepath.Join(s.dir, "layers"), ".unpack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := fill(tmp); err != nil {
		return err
	}
	return os.Rename(tmp, final)
}
