package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shared is the cluster of three nodes that most tests use.
var shared *box

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	if os.Getuid() != 0 {
		return m.Run() // each test says why it is left out
	}
	dir, err := os.MkdirTemp("", "viaduct-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	shared = newBox(dir, fmt.Sprintf("e2e%d", os.Getpid()))
	defer func() {
		if keep := os.Getenv("VIADUCT_E2E_KEEP"); keep == "" {
			shared.run(context.Background(), "", "down")
		}
	}()
	return m.Run()
}

// cluster gives the shared cluster, started by the first test that needs it.
func cluster(t *testing.T) *box {
	t.Helper()
	needRoot(t)
	shared.start(t, "--nodes", "3")
	return shared
}

func needRoot(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("end-to-end tests are left out with -short")
	}
	if os.Getuid() != 0 {
		t.Skip("a box needs root (network namespaces, mounts, cgroups)")
	}
}

// box is one cluster, driven through the command line.
type box struct {
	name, state, bin string
	up               chan error // holds the outcome of the one `viaduct up`
}

func newBox(state, name string) *box {
	bin := os.Getenv("VIADUCT_BIN")
	if bin == "" {
		bin, _ = filepath.Abs("../../bin/viaduct")
	}
	b := &box{name: name, state: state, bin: bin, up: make(chan error, 1)}
	b.up <- errNotStarted
	return b
}

var errNotStarted = errors.New("not started")

// ownBox is a cluster of the test's own, removed when the test ends.
func ownBox(t *testing.T, args ...string) *box {
	t.Helper()
	needRoot(t)
	b := newBox(t.TempDir(), fmt.Sprintf("own%d-%s", os.Getpid(), strings.ToLower(t.Name()[len("Test"):]))[:20])
	t.Cleanup(func() {
		if t.Failed() {
			b.dumpLog(t)
			for _, args := range [][]string{{"get", "nodes,pods", "-A", "-o", "wide"}, {"get", "events", "-A"}} {
				out, _ := b.run(context.Background(), "", append([]string{"kubectl"}, args...)...)
				t.Logf("kubectl %s\n%s", strings.Join(args, " "), out)
			}
			routes, _ := exec.Command("ip", "-n", "viaduct-"+b.name+"-node-1", "route").CombinedOutput()
			t.Logf("routes of node-1:\n%s", routes)
		}
		if out, err := b.run(context.Background(), "", "down"); err != nil {
			t.Errorf("viaduct down: %v\n%s", err, out)
		}
	})
	b.start(t, args...)
	return b
}

// start runs `viaduct up` unless that was done before.
func (b *box) start(t *testing.T, args ...string) {
	t.Helper()
	err := <-b.up
	if errors.Is(err, errNotStarted) {
		var out string
		out, err = b.run(t.Context(), "", append([]string{"up"}, args...)...)
		if err != nil {
			err = fmt.Errorf("viaduct up: %w\n%s", err, out)
		}
	}
	b.up <- err
	if err != nil {
		b.dumpLog(t)
		t.Fatal(err)
	}
}

// command is a viaduct command for this cluster.
func (b *box) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.bin, args...)
	cmd.Env = append(os.Environ(), "VIADUCT_NAME="+b.name, "VIADUCT_STATE_DIR="+b.state)
	return cmd
}

// run runs a viaduct command and gives what it printed on either stream.
func (b *box) run(ctx context.Context, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := b.command(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// viaduct runs a viaduct command that must succeed.
func (b *box) viaduct(t *testing.T, args ...string) string {
	t.Helper()
	out, err := b.run(t.Context(), "", args...)
	if err != nil {
		t.Fatalf("viaduct %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// kubectl runs `viaduct kubectl`, which must succeed.
func (b *box) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return b.viaduct(t, append([]string{"kubectl"}, args...)...)
}

// apply applies a manifest.
func (b *box) apply(t *testing.T, ns, manifest string) {
	t.Helper()
	out, err := b.run(t.Context(), manifest, "kubectl", "apply", "-n", ns, "-f", "-")
	if err != nil {
		t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
}

// shell runs a program of the host in the first node's network, with the
// cluster's DNS; it must succeed.
func (b *box) shell(t *testing.T, args ...string) string {
	t.Helper()
	return strings.TrimSpace(b.viaduct(t, append([]string{"shell", "--"}, args...)...))
}

// namespace makes a namespace for this test, deleted when it ends.
func (b *box) namespace(t *testing.T) string {
	t.Helper()
	name := strings.ToLower(strings.TrimPrefix(t.Name(), "Test"))
	name = strings.NewReplacer("/", "-", "_", "-").Replace(name)
	if len(name) > 40 {
		name = name[:40]
	}
	name = strings.Trim(name, "-")
	b.kubectl(t, "create", "namespace", name)
	t.Cleanup(func() {
		if t.Failed() {
			for _, args := range [][]string{
				{"get", "all,endpointslices", "-o", "wide", "-n", name},
				{"get", "events", "-n", name},
			} {
				out, _ := b.run(context.Background(), "", append([]string{"kubectl"}, args...)...)
				t.Logf("kubectl %s\n%s", strings.Join(args, " "), out)
			}
		}
		b.run(context.Background(), "", "kubectl", "delete", "namespace", name, "--wait=false")
	})
	return name
}

func (b *box) dumpLog(t *testing.T) {
	t.Helper()
	logs, _ := filepath.Glob(filepath.Join(b.state, b.name, "*.log"))
	for _, path := range logs {
		text, _ := os.ReadFile(path)
		lines := strings.Split(string(text), "\n")
		if len(lines) > 60 {
			lines = lines[len(lines)-60:]
		}
		t.Logf("the end of %s:\n%s", filepath.Base(path), strings.Join(lines, "\n"))
	}
}

// eventually waits until check gives no error, and fails with its last one
// after the deadline.
func eventually(t *testing.T, deadline time.Duration, check func() error) {
	t.Helper()
	end := time.Now().Add(deadline)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not so within %v: %v", deadline, err)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
