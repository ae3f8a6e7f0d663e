package cluster

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/lab/labtest"
)

func TestOneHolderOfTheLock(t *testing.T) {
	dir := box.Dir(t.TempDir())
	if running(dir) {
		t.Error("it runs, and there is not even a lock")
	}
	f, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); !errors.Is(err, errBusy) || !running(dir) {
		t.Errorf("a second holder: %v", err)
	}
	// A copy of the descriptor, as the supervisor has, is enough to hold it.
	again, err := dup(f)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if !running(dir) {
		t.Error("nobody holds it, though a copy is open")
	}
	again.Close()
	f, err = waitForLock(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func TestTheAPIsPort(t *testing.T) {
	other, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	taken := uint16(other.Addr().(*net.TCPAddr).Port)

	root := t.TempDir()
	dir := box.Dir(filepath.Join(root, "new"))
	free := func() uint16 {
		t.Helper()
		l, err := listenAPI(t.Context(), dir, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		return uint16(l.Addr().(*net.TCPAddr).Port)
	}
	first := free()
	if first < firstAPIPort || first > lastAPIPort {
		t.Errorf("a new cluster has %d", first)
	}
	dead := box.Default("dead")
	dead.APIPort = first
	if err := os.Mkdir(filepath.Join(root, "dead"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := box.Dir(filepath.Join(root, "dead")).Save(dead); err != nil {
		t.Fatal(err)
	}
	if port := free(); port == first {
		t.Errorf("a new cluster has %d, that of a dead one", port)
	}
	if _, err := listenAPI(t.Context(), dir, taken, false); err == nil || !strings.Contains(err.Error(), "choose another with --api-port") {
		t.Errorf("a new cluster on a taken port: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := listenAPI(ctx, dir, taken, true); err == nil || !strings.Contains(err.Error(), "which this cluster has had, is taken") {
		t.Errorf("a resumed cluster on a taken port: %v", err)
	}
	got := make(chan error)
	go func() {
		l, err := listenAPI(t.Context(), dir, taken, true)
		if err == nil {
			l.Close()
		}
		got <- err
	}()
	other.Close()
	if err := <-got; err != nil {
		t.Errorf("a resumed cluster whose port became free: %v", err)
	}
}

func TestHostsAreLookedUpInFilesAndDNSAlone(t *testing.T) {
	for in, want := range map[string]string{
		"passwd: files\nhosts: files mymachines resolve [!UNAVAIL=return] dns\nnetworks: files\n": "passwd: files\nhosts: files dns\nnetworks: files\n",
		"passwd: files\n": "passwd: files\n\nhosts: files dns\n",
	} {
		if got := string(hostsByDNS([]byte(in))); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
}

func TestResolvConfOfAShell(t *testing.T) {
	want := "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\nnameserver fd00:10:96::a\noptions ndots:5\n"
	if got := string(resolvConf(box.Default("x"))); got != want {
		t.Errorf("%q", got)
	}
}

func TestEscapedMountPointsAreRead(t *testing.T) {
	if got := unescape(`/var/lib/with\040blank\134slash`); got != `/var/lib/with blank\slash` {
		t.Errorf("%q", got)
	}
}

func TestMountsBelowADirectoryAreUndone(t *testing.T) {
	labtest.NeedRoot(t)
	dir := t.TempDir()
	inner := filepath.Join(dir, "a b", "inner")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{filepath.Join(dir, "a b"), inner} {
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", at, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { unmountBelow(dir) })
	if err := unmountBelow(dir); err != nil {
		t.Fatal(err)
	}
	if mounts, _ := os.ReadFile("/proc/self/mountinfo"); bytes.Contains(mounts, []byte(dir)) {
		t.Errorf("left:\n%s", mounts)
	}
}

// privately runs fn on a thread with a mount namespace of its own.
func privately(t *testing.T, fn func() error) {
	t.Helper()
	labtest.NeedRoot(t)
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			done <- err
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestAFileIsCoveredForOneMountNamespace(t *testing.T) {
	dir := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "etc/plain"), "host")
	write(filepath.Join(dir, "run/target"), "host")
	os.Symlink("../run/target", filepath.Join(dir, "etc/link"))
	os.Symlink("../run/not/there", filepath.Join(dir, "etc/dangling"))
	os.MkdirAll(filepath.Join(dir, "scratch"), 0o755)
	for _, name := range []string{"plain", "link", "dangling", "missing"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, "etc", name)
			before, beforeErr := os.ReadFile(path)
			privately(t, func() error {
				scratch := filepath.Join(dir, "scratch")
				if err := unix.Mount("tmpfs", scratch, "tmpfs", 0, ""); err != nil {
					return err
				}
				if err := (cover{scratch}).file(path, []byte("cluster")); err != nil {
					return err
				}
				// A program that this thread starts sees what this thread sees.
				out, err := exec.Command("cat", path).Output()
				if err == nil && string(out) != "cluster" {
					t.Errorf("inside: %q", out)
				}
				return err
			})
			after, afterErr := os.ReadFile(path)
			if string(after) != string(before) || os.IsNotExist(beforeErr) != os.IsNotExist(afterErr) {
				t.Errorf("outside: %q, %v; was %q, %v", after, afterErr, before, beforeErr)
			}
			if left, _ := os.ReadDir(filepath.Join(dir, "scratch")); len(left) > 0 {
				t.Errorf("left outside: %v", left)
			}
		})
	}
}
