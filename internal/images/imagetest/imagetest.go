// Package imagetest makes images of real programs for tests, from Debian's
// packages: the packages are downloaded and unpacked, never installed, and the
// archives are kept in the user's cache directory.
package imagetest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Redis gives an archive of the image redis:test: redis-server on port 6379,
// and redis-cli.
func Redis(t testing.TB) string {
	return build(t, recipe{
		tag:      "redis:test",
		packages: []string{"redis-server", "redis-tools"},
		config:   v1.Config{Entrypoint: []string{"redis-server", "--protected-mode", "no", "--save", ""}},
	})
}

// Nginx gives an archive of the image nginx:test: nginx on port 80.
func Nginx(t testing.TB) string {
	return build(t, recipe{
		tag:      "nginx:test",
		packages: []string{"nginx", "nginx-common"},
		files: map[string]string{
			"etc/nginx/nginx.conf": "events {}\nhttp { access_log off; server { listen 80; listen [::]:80; location / { return 200 \"nginx in a container\\n\"; } } }\n",
		},
		config: v1.Config{Entrypoint: []string{"nginx", "-e", "/dev/stderr", "-g", "daemon off;"}, StopSignal: "SIGQUIT"},
	})
}

// recipe says what an image is made of.
type recipe struct {
	tag      string
	packages []string
	files    map[string]string // added after the packages' own
	config   v1.Config
}

func build(t testing.TB, r recipe) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("unpacking Debian packages with their owners needs root")
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("the images of real programs are made from Debian packages, and apt-get is not here")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "viaduct-test-images")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(cache, strings.ReplaceAll(r.tag, ":", "-")+".tar")
	if _, err := os.Stat(archive); err == nil {
		return archive
	}
	root := t.TempDir()
	for _, p := range closure(t, r.packages) {
		unpack(t, p, root)
	}
	for _, d := range []string{"tmp", "run", "var/log/nginx", "var/lib/nginx", "root"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
		"etc/group":  "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n",
	}
	for n, text := range r.files {
		files[n] = text
	}
	for n, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, n)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, n), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r.config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if err := write(root, r, archive); err != nil {
		t.Fatal(err)
	}
	return archive
}

// library says which dependencies a program needs to run; the rest of what a
// package depends on is there to install and configure it.
var library = regexp.MustCompile(`^(lib|zlib1g|redis-|nginx)`)

// closure gives the packages and the libraries that they depend on.
func closure(t testing.TB, packages []string) []string {
	t.Helper()
	query := func() ([]byte, error) {
		return exec.Command("apt-cache", append([]string{"depends", "--recurse", "--no-recommends", "--no-suggests",
			"--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances"}, packages...)...).Output()
	}
	out, err := query()
	if err != nil || len(out) == 0 {
		run(t, "", "apt-get", "update", "-qq")
		if out, err = query(); err != nil {
			t.Fatalf("apt-cache depends %v: %v", packages, err)
		}
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimRight(line, "\n")
		if line == "" || strings.HasPrefix(line, " ") || strings.HasPrefix(line, "<") || strings.Contains(line, ":") {
			continue
		}
		if library.MatchString(line) && !slices.Contains(all, line) {
			all = append(all, line)
		}
	}
	return all
}

func unpack(t testing.TB, name, root string) {
	t.Helper()
	dir := t.TempDir()
	os.Chmod(dir, 0o777) // apt downloads as a user of its own
	cmd := exec.Command("apt-get", "download", "-qq", name)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		// A virtual package, or one that another stands in for.
		t.Logf("apt-get download %s: %v: %s", name, err, bytes.TrimSpace(out))
		return
	}
	debs, _ := filepath.Glob(filepath.Join(dir, "*.deb"))
	for _, deb := range debs {
		run(t, "", "dpkg-deb", "-x", deb, root)
	}
}

func run(t testing.TB, dir string, argv ...string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
}

// write packs a directory as a docker-archive with one layer.
func write(root string, r recipe, archive string) error {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, link := range []string{"bin", "lib", "lib64", "sbin"} { // Debian's merged /usr
		if _, err := os.Lstat(filepath.Join(root, link)); os.IsNotExist(err) {
			if err := os.Symlink("usr/"+link, filepath.Join(root, link)); err != nil {
				return err
			}
		} else if info, err := os.Lstat(filepath.Join(root, link)); err == nil && info.IsDir() {
			if out, err := exec.Command("cp", "-a", filepath.Join(root, link)+"/.", filepath.Join(root, "usr", link)).CombinedOutput(); err != nil {
				return fmt.Errorf("merge /%s: %w: %s", link, err, out)
			}
			if err := os.RemoveAll(filepath.Join(root, link)); err != nil {
				return err
			}
			if err := os.Symlink("usr/"+link, filepath.Join(root, link)); err != nil {
				return err
			}
		}
	}
	err := filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err != nil || path == root {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if strings.HasPrefix(rel, "usr/share/doc") || strings.HasPrefix(rel, "usr/share/man") || strings.HasPrefix(rel, "usr/share/locale") {
			return nil
		}
		target := ""
		if info.Mode()&os.ModeSymlink != 0 {
			if target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return err
		}
		h.Name = rel
		if err := w.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err == nil {
		img, err = mutate.Config(img, r.config)
	}
	if err != nil {
		return err
	}
	tag, err := name.NewTag(r.tag)
	if err != nil {
		return err
	}
	tmp := archive + ".new"
	if err := tarball.WriteToFile(tmp, tag, img); err != nil {
		return err
	}
	return os.Rename(tmp, archive)
}
