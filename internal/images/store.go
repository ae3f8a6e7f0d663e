package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Store is a directory of images:
//
//	index.json                  the names
//	layers/sha256-HEX/          unpacked layers, by the digest of their content
//	lock                        held by whoever changes the store
//
// It may be read and written by several processes at once.
type Store struct {
	dir string

	mu sync.Mutex // the flock's counterpart within this process
}

// record is what the index keeps of an image.
type record struct {
	Image
	LayerNames []string // below layers/, lowest first
}

// index is the content of index.json.
type index struct {
	// Names maps full references (with tag or digest) to IDs.
	Names  map[string]string
	Images map[string]record // by ID
}

// Open opens the store in dir and makes it if it is not there.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(filepath.Join(dir, "layers"), 0o755); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	return &Store{dir: dir}, nil
}

// Normalize gives the full form of an image reference, as container tools
// understand the short ones: nginx is docker.io/library/nginx:latest.
func Normalize(ref string) (string, error) {
	r, err := parse(ref)
	if err != nil {
		return "", err
	}
	return full(r), nil
}

func parse(ref string) (name.Reference, error) {
	r, err := name.ParseReference(ref, name.WeakValidation)
	if err != nil {
		return nil, fmt.Errorf("image name %q is invalid: %w", ref, err)
	}
	return r, nil
}

// full names a reference with the registry by the name that people know.
func full(r name.Reference) string {
	return strings.Replace(r.Name(), name.DefaultRegistry+"/", "docker.io/", 1)
}

// Lookup finds an image by reference or by ID (with or without "sha256:"). It
// returns ErrNotFound where there is none.
func (s *Store) Lookup(ref string) (Image, error) {
	idx, err := s.read()
	if err != nil {
		return Image{}, err
	}
	id, ok := idx.Names[ref]
	if !ok {
		if norm, err := Normalize(ref); err == nil {
			id, ok = idx.Names[norm]
		}
	}
	if !ok {
		for _, candidate := range []string{ref, "sha256:" + ref} {
			if _, found := idx.Images[candidate]; found {
				id, ok = candidate, true
			}
		}
	}
	if !ok {
		return Image{}, fmt.Errorf("%w: %s", ErrNotFound, ref)
	}
	return s.image(idx.Images[id]), nil
}

// List gives every name with its image, sorted by name.
func (s *Store) List() ([]Image, error) {
	idx, err := s.read()
	if err != nil {
		return nil, err
	}
	var all []Image
	for n, id := range idx.Names {
		img := s.image(idx.Images[id])
		img.Name = n
		all = append(all, img)
	}
	slices.SortFunc(all, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func (s *Store) image(r record) Image {
	img := r.Image
	for _, n := range r.LayerNames {
		img.Layers = append(img.Layers, filepath.Join(s.dir, "layers", n))
	}
	return img
}

// Remove forgets a name, and the image and its layers when no other name or
// image needs them. Containers that run from it keep running: what is mounted
// stays until it is unmounted.
func (s *Store) Remove(ref string) error {
	norm, err := Normalize(ref)
	if err != nil {
		return err
	}
	return s.change(func(idx *index) error {
		if _, ok := idx.Names[norm]; !ok {
			return fmt.Errorf("%w: %s", ErrNotFound, ref)
		}
		delete(idx.Names, norm)
		named := map[string]bool{}
		for _, id := range idx.Names {
			named[id] = true
		}
		for id := range idx.Images {
			if !named[id] {
				delete(idx.Images, id)
			}
		}
		return nil
	})
}

// add unpacks an image's layers and gives it names.
func (s *Store) add(ctx context.Context, img v1.Image, names []string) (Image, error) {
	id, err := img.ConfigName()
	if err != nil {
		return Image{}, err
	}
	digest, err := img.Digest()
	if err != nil {
		return Image{}, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return Image{}, err
	}
	layers, err := img.Layers()
	if err != nil {
		return Image{}, err
	}
	r := record{Image: Image{
		ID: id.String(), Digest: digest.String(),
		Entrypoint: config.Config.Entrypoint, Cmd: config.Config.Cmd, Env: config.Config.Env,
		WorkingDir: config.Config.WorkingDir, User: config.Config.User, StopSignal: config.Config.StopSignal,
	}}
	if len(names) > 0 {
		r.Name = names[0]
	}
	err = s.change(func(idx *index) error {
		for _, l := range layers {
			diff, err := l.DiffID()
			if err != nil {
				return err
			}
			if size, err := l.Size(); err == nil {
				r.SizeBytes += size
			}
			dir := "sha256-" + diff.Hex
			if err := s.unpack(ctx, l, dir); err != nil {
				return fmt.Errorf("unpack layer %s: %w", diff, explain(err))
			}
			r.LayerNames = append(r.LayerNames, dir)
		}
		idx.Images[r.ID] = r
		for _, n := range names {
			idx.Names[n] = r.ID
		}
		return nil
	})
	if err != nil {
		return Image{}, err
	}
	return s.image(r), nil
}

// explain names the cure of an error where the error does not.
func explain(err error) error {
	if errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("%w: free space on the disk that holds the state directory, or choose another by --state-dir", err)
	}
	return err
}

func (s *Store) read() (index, error) {
	idx := index{Names: map[string]string{}, Images: map[string]record{}}
	text, err := os.ReadFile(filepath.Join(s.dir, "index.json"))
	if errors.Is(err, os.ErrNotExist) {
		return idx, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &idx)
	}
	if err != nil {
		return idx, fmt.Errorf("read the image index: %w", err)
	}
	return idx, nil
}

// change runs fn on the index under the store's lock, writes it, and removes
// what nothing refers to any more.
func (s *Store) change(fn func(*index) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	lock, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock the image store: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock the image store: %w", err)
	}
	idx, err := s.read()
	if err != nil {
		return err
	}
	if err := fn(&idx); err != nil {
		return err
	}
	text, err := json.MarshalIndent(idx, "", " ")
	if err != nil {
		return err
	}
	tmp := filepath.Join(s.dir, ".index.json")
	err = os.WriteFile(tmp, text, 0o644)
	if err == nil {
		err = os.Rename(tmp, filepath.Join(s.dir, "index.json"))
	}
	if err != nil {
		return fmt.Errorf("write the image index: %w", explain(err))
	}
	return s.collect(idx)
}

// collect removes layers that no image has, and what a crash left half done.
func (s *Store) collect(idx index) error {
	used := map[string]bool{}
	for _, r := range idx.Images {
		for _, l := range r.LayerNames {
			used[l] = true
		}
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, "layers"))
	if err != nil {
		return fmt.Errorf("collect unused layers: %w", err)
	}
	for _, e := range entries {
		if !used[e.Name()] {
			if err := os.RemoveAll(filepath.Join(s.dir, "layers", e.Name())); err != nil {
				return fmt.Errorf("collect unused layers: %w", err)
			}
		}
	}
	return nil
}
