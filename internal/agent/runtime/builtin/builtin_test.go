package builtin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"viaduct.dev/viaduct/internal/agent/runtime"
)

// host is a runtime with one image layer that holds the toolbox.
type host struct {
	*Runtime
	layer string
}

func newHost(t *testing.T) *host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("containers need root")
	}
	toolbox, err := Toolbox()
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	layer := t.TempDir()
	os.Chmod(layer, 0o755)
	for _, d := range []string{"bin", "etc", "tmp"} {
		os.Mkdir(filepath.Join(layer, d), 0o755)
	}
	os.WriteFile(filepath.Join(layer, "bin/toolbox"), toolbox, 0o755)
	os.WriteFile(filepath.Join(layer, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nweb:x:33:44::/srv:/bin/sh\n"), 0o644)
	return &host{r, layer}
}

// pod makes a Pod that is gone when the test ends.
func (h *host) pod(t *testing.T) (runtime.Pod, runtime.PodConfig) {
	t.Helper()
	dir := t.TempDir()
	cfg := runtime.PodConfig{
		UID: filepath.Base(dir), Namespace: "default", Name: "p", Hostname: "p-host", StateDir: dir,
		CgroupPath: fmt.Sprintf("/viaduct/runtimetest%d/node-1/pod%s", os.Getpid(), strings.ReplaceAll(filepath.Base(filepath.Dir(dir)), "_", "-")),
	}
	p, err := h.CreatePod(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.CleanUp(context.Background(), dir); err != nil {
			t.Error(err)
		}
		RemoveCgroups(context.Background(), filepath.Dir(filepath.Dir(cfg.CgroupPath)))
	})
	return p, cfg
}

func (h *host) container(cfg runtime.PodConfig, id string, args ...string) runtime.ContainerConfig {
	return runtime.ContainerConfig{
		ID: id, Name: id, Layers: []string{h.layer},
		Args:    append([]string{"toolbox"}, args...),
		Env:     []string{"PATH=/bin", "GREETING=hello"},
		LogPath: filepath.Join(cfg.StateDir, id+".log"),
	}
}

func run(t *testing.T, p runtime.Pod, c runtime.ContainerConfig) runtime.ContainerStatus {
	t.Helper()
	s, err := p.StartContainer(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ended waits for the end of a container.
func ended(t *testing.T, p runtime.Pod, id string) runtime.ContainerStatus {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case s, ok := <-p.Events():
			if !ok {
				t.Fatal("the pod is gone")
			}
			if s.ID == id && s.State == runtime.StateExited {
				return s
			}
		case <-deadline:
			t.Fatalf("container %s does not end", id)
		}
	}
}

func logText(t *testing.T, c runtime.ContainerConfig) string {
	t.Helper()
	text, err := os.ReadFile(c.LogPath)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestContainerRunsAndTellsItsEnd(t *testing.T) {
	h := newHost(t)
	p, cfg := h.pod(t)
	for _, c := range []struct {
		args []string
		code int
		log  string
	}{
		{[]string{"echo", "one", "two"}, 0, "stdout F one two\n"},
		{[]string{"env"}, 0, "stdout F GREETING=hello\n"},
		{[]string{"hostname"}, 0, "stdout F p-host\n"},
		{[]string{"exit", "3"}, 3, ""},
		{[]string{"nonsense"}, 1, "stderr F toolbox: unknown command"},
	} {
		cc := h.container(cfg, "c-"+c.args[0], c.args...)
		run(t, p, cc)
		s := ended(t, p, cc.ID)
		if s.ExitCode != c.code || s.Signal != 0 || s.StartedAt.IsZero() || s.FinishedAt.Before(s.StartedAt) {
			t.Errorf("%v: %+v", c.args, s)
		}
		if text := logText(t, cc); !strings.Contains(text, c.log) {
			t.Errorf("%v: log %q lacks %q", c.args, text, c.log)
		}
	}
}

func TestKilledContainerTellsItsSignal(t *testing.T) {
	h := newHost(t)
	p, cfg := h.pod(t)
	run(t, p, h.container(cfg, "c", "sleep", "infinity"))
	if err := p.Signal(t.Context(), "c", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if s := ended(t, p, "c"); s.ExitCode != 137 || s.Signal != 9 {
		t.Errorf("%+v", s)
	}
	if err := p.Signal(t.Context(), "c", syscall.SIGTERM); err != nil {
		t.Errorf("signal to an ended container: %v", err)
	}
	if err := p.Signal(t.Context(), "nobody", syscall.SIGTERM); !errors.Is(err, runtime.ErrContainerNotFound) {
		t.Errorf("signal to nobody: %v", err)
	}
}

func TestProgramThatIsNotThereIsNamed(t *testing.T) {
	h := newHost(t)
	p, cfg := h.pod(t)
	c := h.container(cfg, "c")
	c.Args = []string{"no-such-program"}
	if _, err := p.StartContainer(t.Context(), c); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("started: %v", err)
	}
	// The name can be used again.
	run(t, p, h.container(cfg, "c", "true"))
	ended(t, p, "c")
}

func TestExecRunsInsideTheContainer(t *testing.T) {
	h := newHost(t)
	p, cfg := h.pod(t)
	run(t, p, h.container(cfg, "c", "sleep", "infinity"))

	exec := func(tty bool, stdin string, args ...string) (string, int, error) {
		in, inW, _ := os.Pipe()
		outR, out, _ := os.Pipe()
		defer outR.Close()
		go func() { io.WriteString(inW, stdin); inW.Close() }()
		e := runtime.ExecConfig{Args: args, TTY: tty, Streams: runtime.Streams{Stdin: in, Stdout: out}}
		if !tty {
			e.Stderr = out
		}
		got := make(chan string, 1)
		go func() { text, _ := io.ReadAll(outR); got <- string(text) }()
		code, err := p.Exec(t.Context(), "c", e)
		in.Close()
		out.Close()
		return <-got, code, err
	}
	if out, code, err := exec(false, "", "toolbox", "env"); err != nil || code != 0 || !strings.Contains(out, "GREETING=hello\n") {
		t.Errorf("env: %q %d %v", out, code, err)
	}
	if out, code, err := exec(false, "through\n", "toolbox", "cat"); err != nil || code != 0 || out != "through\n" {
		t.Errorf("cat: %q %d %v", out, code, err)
	}
	if _, code, err := exec(false, "", "toolbox", "exit", "7"); err != nil || code != 7 {
		t.Errorf("exit 7: %d %v", code, err)
	}
	if out, code, err := exec(true, "", "toolbox", "echo", "terminal"); err != nil || code != 0 || !strings.Contains(out, "terminal") {
		t.Errorf("with a terminal: %q %d %v", out, code, err)
	}
	if _, _, err := exec(false, "", "no-such-program"); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("no such program: %v", err)
	}
}

func TestPodIsFoundAgainWithItsContainers(t *testing.T) {
	h := newHost(t)
	p, cfg := h.pod(t)
	first := run(t, p, h.container(cfg, "runs", "sleep", "infinity"))
	run(t, p, h.container(cfg, "ended", "exit", "4"))
	ended(t, p, "ended")

	again, err := h.OpenPod(t.Context(), cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	all, err := again.Containers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]runtime.ContainerStatus{}
	for _, s := range all {
		seen[s.ID] = s
	}
	if s := seen["runs"]; s.State != runtime.StateRunning || s.PID != first.PID {
		t.Errorf("the running one: %+v, was %+v", s, first)
	}
	if s := seen["ended"]; s.State != runtime.StateExited || s.ExitCode != 4 {
		t.Errorf("the ended one: %+v", s)
	}
	if got := again.Config(); got.Hostname != cfg.Hostname || got.UID != cfg.UID {
		t.Errorf("configuration %+v", got)
	}
}

func TestStoppedPodLeavesNothing(t *testing.T) {
	h := newHost(t)
	p, cfg := h.pod(t)
	s := run(t, p, h.container(cfg, "c", "sleep", "infinity"))
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, h, cfg, s.PID)
}

func TestPodWithAKilledShimIsGoneAndCleanedUp(t *testing.T) {
	h := newHost(t)
	p, cfg := h.pod(t)
	s := run(t, p, h.container(cfg, "c", "sleep", "infinity"))
	syscall.Kill(p.(*pod).pid, syscall.SIGKILL)
	deadline := time.After(10 * time.Second)
	for open := true; open; {
		select {
		case _, open = <-p.Events():
		case <-deadline:
			t.Fatal("the events go on")
		}
	}
	if _, err := h.OpenPod(t.Context(), cfg.StateDir); !errors.Is(err, runtime.ErrPodGone) {
		t.Errorf("open: %v", err)
	}
	if err := h.CleanUp(t.Context(), cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, h, cfg, s.PID)
}

func nothingLeft(t *testing.T, h *host, cfg runtime.PodConfig, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, 0); err == nil {
		if stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); !bytes.Contains(stat, []byte(") Z ")) {
			t.Errorf("process %d is still there", pid)
		}
	}
	for _, root := range cgroupRoots() {
		if _, err := os.Stat(filepath.Join(root, cfg.CgroupPath)); err == nil {
			t.Errorf("cgroup %s is still there", filepath.Join(root, cfg.CgroupPath))
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if bytes.Contains(mounts, []byte(cfg.StateDir)) {
		t.Error("a mount is still there")
	}
	if _, err := os.Stat(runtimeDir(cfg.StateDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("files are still there: %v", err)
	}
}

func TestMountsOfAContainerAreNotTheHosts(t *testing.T) {
	h := newHost(t)
	p, cfg := h.pod(t)
	run(t, p, h.container(cfg, "c", "sleep", "infinity"))
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if bytes.Contains(mounts, []byte(cfg.StateDir)) {
		t.Error("the host sees a mount of the container")
	}
}

func TestLimitsUserAndMounts(t *testing.T) {
	h := newHost(t)
	p, cfg := h.pod(t)
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "file"), []byte("bound"), 0o644)
	os.Chmod(dir, 0o755)
	c := h.container(cfg, "c", "serve", "--http=127.0.0.1:0")
	c.User = "web"
	c.WorkingDir = "/made/here"
	c.Mounts = []runtime.Mount{{HostPath: dir, ContainerPath: "/data", ReadOnly: true}}
	c.Resources = runtime.Resources{MemoryLimit: 64 << 20, CPUShares: 512, CPUQuota: 50000, CPUPeriod: 100000, PidsLimit: 50, OOMScoreAdj: 100}
	s := run(t, p, c)

	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.PID))
	for _, want := range []string{"Uid:\t33\t33\t33\t33", "Gid:\t44\t44\t44\t44", "CapEff:\t0000000000000000"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	if adj, _ := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", s.PID)); strings.TrimSpace(string(adj)) != "100" {
		t.Errorf("oom_score_adj %s", adj)
	}
	root := fmt.Sprintf("/proc/%d/root", s.PID)
	if text, _ := os.ReadFile(root + "/data/file"); string(text) != "bound" {
		t.Errorf("the mount holds %q", text)
	}
	if wd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", s.PID)); wd != "/made/here" {
		t.Errorf("working directory %s", wd)
	}
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err == nil {
		limit, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/memory", cfg.CgroupPath, "c/memory.limit_in_bytes"))
		if strings.TrimSpace(string(limit)) != fmt.Sprint(64<<20) {
			t.Errorf("memory limit %s (%v)", limit, err)
		}
		quota, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/cpu", cfg.CgroupPath, "c/cpu.cfs_quota_us"))
		if strings.TrimSpace(string(quota)) != "50000" {
			t.Errorf("cpu quota %s (%v)", quota, err)
		}
	} else if limit, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", cfg.CgroupPath, "c/memory.max")); strings.TrimSpace(string(limit)) != fmt.Sprint(64<<20) {
		t.Errorf("memory limit %s (%v)", limit, err)
	}
}
