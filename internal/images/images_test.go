package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("layers keep their owners and devices, which needs root")
	}
}

func archive(t *testing.T, headers ...*tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		content := h.Linkname
		if h.Typeflag == tar.TypeReg {
			h.Linkname, h.Size = "", int64(len(content))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			io.WriteString(w, content)
		}
	}
	w.Close()
	return buf.Bytes()
}

// file is an entry whose content travels in Linkname.
func file(name, content string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Linkname: content}
}

func image(t *testing.T, layers ...[]byte) v1.Image {
	t.Helper()
	img := empty.Image
	for _, l := range layers {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(l)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	img, err := mutate.Config(img, v1.Config{Entrypoint: []string{"/app"}, Env: []string{"A=b"}, User: "web", StopSignal: "SIGQUIT"})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func open(t *testing.T) *Store {
	t.Helper()
	needRoot(t)
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNormalize(t *testing.T) {
	for ref, want := range map[string]string{
		"nginx":                        "docker.io/library/nginx:latest",
		"nginx:1.22":                   "docker.io/library/nginx:1.22",
		"viaduct/toolbox:1":            "docker.io/viaduct/toolbox:1",
		"docker.io/library/nginx:1":    "docker.io/library/nginx:1",
		"127.0.0.1:5000/x/y":           "127.0.0.1:5000/x/y:latest",
		"reg.example.com/team/app:2.0": "reg.example.com/team/app:2.0",
	} {
		if got, err := Normalize(ref); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", ref, got, err, want)
		}
	}
	for _, bad := range []string{"", "UPPER/case", "a b", "x:y:z"} {
		if got, err := Normalize(bad); err == nil {
			t.Errorf("%q is accepted as %s", bad, got)
		}
	}
}

func TestLoadEveryForm(t *testing.T) {
	needRoot(t)
	img := image(t, archive(t, file("etc/one", "1")), archive(t, file("etc/two", "2")))
	tag, _ := name.NewTag("app:1")
	dir := t.TempDir()
	docker := filepath.Join(dir, "docker.tar")
	if err := tarball.WriteToFile(docker, tag, img); err != nil {
		t.Fatal(err)
	}
	oci := filepath.Join(dir, "oci")
	l, err := layout.Write(oci, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AppendImage(img, layout.WithAnnotations(map[string]string{refAnnotation: "app:1"})); err != nil {
		t.Fatal(err)
	}
	ociTar := filepath.Join(dir, "oci.tar")
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.AddFS(os.DirFS(oci)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	os.WriteFile(ociTar, buf.Bytes(), 0o644)
	zipped := filepath.Join(dir, "docker.tar.gz")
	var zbuf bytes.Buffer
	z := gzip.NewWriter(&zbuf)
	plain, _ := os.ReadFile(docker)
	z.Write(plain)
	z.Close()
	os.WriteFile(zipped, zbuf.Bytes(), 0o644)

	for _, path := range []string{docker, oci, ociTar, zipped} {
		s := open(t)
		if _, err := s.Load(t.Context(), path); err != nil {
			t.Errorf("%s: %v", filepath.Base(path), err)
			continue
		}
		got, err := s.Lookup("app:1")
		if err != nil || len(got.Layers) != 2 || got.User != "web" || got.StopSignal != "SIGQUIT" || got.Entrypoint[0] != "/app" {
			t.Errorf("%s: %+v, %v", filepath.Base(path), got, err)
			continue
		}
		for i, f := range []string{"etc/one", "etc/two"} {
			if _, err := os.Stat(filepath.Join(got.Layers[i], f)); err != nil {
				t.Error(err)
			}
		}
		if byID, err := s.Lookup(got.ID); err != nil || byID.ID != got.ID {
			t.Errorf("by ID: %v", err)
		}
	}
}

func TestLoadSaysWhatIsWrong(t *testing.T) {
	s := open(t)
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	os.WriteFile(garbage, []byte("no archive at all, but long enough to be read"), 0o644)
	other := filepath.Join(dir, "other.tar")
	os.WriteFile(other, archive(t, file("readme", "hello")), 0o644)
	for _, path := range []string{garbage, other} {
		if _, err := s.Load(t.Context(), path); err == nil || !strings.Contains(err.Error(), "neither a docker-archive") {
			t.Errorf("%s: %v", filepath.Base(path), err)
		}
	}
	if _, err := s.Load(t.Context(), filepath.Join(dir, "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestPullFromARegistry(t *testing.T) {
	s := open(t)
	server := httptest.NewServer(registry.New())
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	ref, err := name.NewTag(host + "/team/app:2")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image(t, archive(t, file("f", "pulled")))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lookup(ref.String()); !errors.Is(err, ErrNotFound) {
		t.Errorf("before: %v", err)
	}
	if _, err := s.Pull(t.Context(), ref.String()); err != nil {
		t.Fatal(err)
	}
	got, err := s.Lookup(ref.String())
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(filepath.Join(got.Layers[0], "f")); string(text) != "pulled" {
		t.Errorf("content %q", text)
	}
	if _, err := s.Pull(t.Context(), host+"/team/none:1"); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("an image that is not there: %v", err)
	}
}

func TestLayersStayInsideTheirDirectory(t *testing.T) {
	needRoot(t)
	outside := t.TempDir()
	for what, headers := range map[string][]*tar.Header{
		"dots":              {file("../../../../escaped", "x")},
		"through a link":    {{Typeflag: tar.TypeSymlink, Name: "out", Linkname: outside}, file("out/escaped", "x")},
		"hard link outside": {{Typeflag: tar.TypeLink, Name: "hard", Linkname: "../../../../etc/passwd"}},
		"whiteout by link":  {{Typeflag: tar.TypeSymlink, Name: "out", Linkname: outside}, file("out/.wh.x", "")},
		"absolute":          {file("/escaped", "x")},
	} {
		dir := filepath.Join(t.TempDir(), "layer")
		os.Mkdir(dir, 0o755)
		err := untar(t.Context(), bytes.NewReader(archive(t, headers...)), dir)
		t.Logf("%s: %v", what, err)
		if entries, _ := os.ReadDir(outside); len(entries) > 0 {
			t.Fatalf("%s: wrote outside: %v", what, entries)
		}
		if entries, _ := os.ReadDir(filepath.Dir(dir)); len(entries) != 1 {
			t.Fatalf("%s: wrote beside the layer: %v", what, entries)
		}
	}
}

func TestWhiteoutsOwnersAndLinks(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	err := untar(context.Background(), bytes.NewReader(archive(t,
		&tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o1777, Uid: 7, Gid: 8},
		file("d/.wh.gone", ""),
		file("e/.wh..wh..opq", ""),
		&tar.Header{Typeflag: tar.TypeReg, Name: "suid", Mode: 0o4755, Uid: 0, Linkname: "s"},
		&tar.Header{Typeflag: tar.TypeLink, Name: "twin", Linkname: "suid"},
		&tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "/suid"},
	)), dir)
	if err != nil {
		t.Fatal(err)
	}
	stat := func(name string) *syscall.Stat_t {
		var st syscall.Stat_t
		if err := syscall.Lstat(filepath.Join(dir, name), &st); err != nil {
			t.Fatal(err)
		}
		return &st
	}
	if st := stat("d/gone"); st.Mode&syscall.S_IFMT != syscall.S_IFCHR || st.Rdev != 0 {
		t.Errorf("whiteout: mode %o rdev %d", st.Mode, st.Rdev)
	}
	if st := stat("d"); st.Uid != 7 || st.Gid != 8 || st.Mode&0o7777 != 0o1777 {
		t.Errorf("directory: %d:%d %o", st.Uid, st.Gid, st.Mode)
	}
	value := make([]byte, 8)
	if n, err := syscall.Getxattr(filepath.Join(dir, "e"), "trusted.overlay.opaque", value); err != nil || string(value[:n]) != "y" {
		t.Errorf("opaque: %q %v", value[:max(n, 0)], err)
	}
	if a, b := stat("suid"), stat("twin"); a.Ino != b.Ino || a.Mode&0o7777 != 0o4755 {
		t.Errorf("hard link: %d %d, mode %o", a.Ino, b.Ino, a.Mode)
	}
	if to, _ := os.Readlink(filepath.Join(dir, "link")); to != "/suid" {
		t.Errorf("link to %s", to)
	}
}

func TestRemoveCollectsWhatNobodyNeeds(t *testing.T) {
	s := open(t)
	common := archive(t, file("common", "c"))
	for n, own := range map[string]string{"a:1": "a", "b:1": "b"} {
		tag, _ := name.NewTag(n)
		path := filepath.Join(t.TempDir(), "i.tar")
		if err := tarball.WriteToFile(path, tag, image(t, common, archive(t, file(own, own)))); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Load(t.Context(), path); err != nil {
			t.Fatal(err)
		}
	}
	count := func() int {
		entries, _ := os.ReadDir(filepath.Join(s.dir, "layers"))
		return len(entries)
	}
	if n := count(); n != 3 {
		t.Fatalf("%d layers, not the 3 different ones", n)
	}
	if err := s.Remove("a:1"); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 2 {
		t.Errorf("%d layers are left, not 2", n)
	}
	if _, err := s.Lookup("b:1"); err != nil {
		t.Error(err)
	}
	if err := s.Remove("a:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("again: %v", err)
	}
}

func TestToolboxIsMadeOnce(t *testing.T) {
	s := open(t)
	for range 2 {
		if err := s.EnsureToolbox(t.Context(), []byte("program 1")); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Lookup("viaduct/toolbox:1")
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(filepath.Join(got.Layers[0], "bin/toolbox")); string(text) != "program 1" {
		t.Errorf("program %q", text)
	}
	if err := s.EnsureToolbox(t.Context(), []byte("program 2")); err != nil {
		t.Fatal(err)
	}
	if again, _ := s.Lookup("viaduct/toolbox"); again.ID == got.ID {
		t.Error("another program gives the same image")
	}
}
