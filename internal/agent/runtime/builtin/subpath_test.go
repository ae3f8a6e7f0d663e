package builtin

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/agent/runtime"
)

// volumeAnd is a volume, and what lies outside of it.
func volumeAnd(t *testing.T) (volume, outside string) {
	t.Helper()
	dir := t.TempDir()
	volume, outside = filepath.Join(dir, "volume"), filepath.Join(dir, "outside")
	for path, text := range map[string]string{
		volume + "/part/file": "inside", outside + "/file": "outside",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"near": "part", "up": "../outside", "away": outside, "round": "part/../../outside", "proc": "/proc/self/root"} {
		if err := os.Symlink(to, filepath.Join(volume, link)); err != nil {
			t.Fatal(err)
		}
	}
	return volume, outside
}

func TestPartOfAVolumeIsMountedAndNothingElse(t *testing.T) {
	h := newHost(t)
	p, cfg := h.pod(t)
	volume, _ := volumeAnd(t)
	for i, c := range []struct{ sub, file, want string }{
		{"part", "/m/file", "inside"},
		{"part/file", "/m", "inside"},
		{"near", "/m/file", "inside"},
		{"near/file", "/m", "inside"},
		{"up", "/m/file", "leads out of the volume"},
		{"up/file", "/m", "leads out of the volume"},
		{"away", "/m/file", "leads out of the volume"},
		{"round", "/m/file", "leads out of the volume"},
		{"../outside", "/m/file", "leads out of the volume"},
		{"proc", "/m/etc/passwd", "leads out of the volume"},
		{"absent", "/m", "no such file"},
	} {
		cc := h.container(cfg, fmt.Sprintf("c%d", i), "cat", c.file)
		cc.Mounts = []runtime.Mount{{HostPath: volume, SubPath: c.sub, ContainerPath: "/m"}}
		got := ""
		if _, err := p.StartContainer(t.Context(), cc); err != nil {
			got = err.Error()
		} else {
			ended(t, p, cc.ID)
			got = logText(t, cc)
		}
		if !strings.Contains(got, c.want) || strings.Contains(got, "stdout P outside") {
			t.Errorf("%s: %q, want %q", c.sub, got, c.want)
		}
		if err := p.RemoveContainer(t.Context(), cc.ID); err != nil && c.want == "inside" {
			t.Error(err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(volume, "part/file")); string(text) != "inside" {
		t.Errorf("the volume holds %q after its containers (%v)", text, err)
	}
	if left, _ := filepath.Glob(filepath.Join(runtimeDir(cfg.StateDir), "pins", "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestLinkThatIsPutThereMeanwhileLeadsNowhere(t *testing.T) {
	h := newHost(t)
	p, cfg := h.pod(t)
	volume, outside := volumeAnd(t)
	trap := filepath.Join(volume, "trap")
	if err := os.Symlink(outside, trap); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, trap, unix.AT_FDCWD, filepath.Join(volume, "part"), unix.RENAME_EXCHANGE); err != nil {
				stopped <- err
				return
			}
		}
	}()
	inside := 0
	for i := range 30 {
		cc := h.container(cfg, fmt.Sprintf("c%d", i), "cat", "/m/file")
		cc.Mounts = []runtime.Mount{{HostPath: volume, SubPath: "part", ContainerPath: "/m"}}
		if _, err := p.StartContainer(t.Context(), cc); err != nil {
			if !strings.Contains(err.Error(), "leads out of the volume") {
				t.Error(err)
			}
			continue
		}
		ended(t, p, cc.ID)
		switch text := logText(t, cc); {
		case strings.Contains(text, "outside"):
			t.Fatalf("it got out: %q", text)
		case strings.Contains(text, "inside"):
			inside++
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if inside == 0 {
		t.Error("no container saw the volume")
	}
}
