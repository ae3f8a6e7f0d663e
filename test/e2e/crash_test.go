package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is a row of `viaduct status -o json`.
type process struct {
	Role string `json:"role"` // supervisor, node
	Node string `json:"node"`
	PID  int    `json:"pid"`
}

func processes(t *testing.T, b *box) []process {
	t.Helper()
	var status struct {
		Processes []process `json:"processes"`
	}
	out := b.viaduct(t, "status", "-o", "json")
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		t.Fatalf("status: %v\n%s", err, out)
	}
	return status.Processes
}

func pidOf(t *testing.T, b *box, role, node string) int {
	t.Helper()
	for _, p := range processes(t, b) {
		if p.Role == role && (node == "" || p.Node == node) {
			return p.PID
		}
	}
	t.Fatalf("no %s %s among the processes", role, node)
	return 0
}

// containers names the running containers, with what would change if one were
// restarted.
func containers(t *testing.T, b *box, ns string) string {
	t.Helper()
	return b.kubectl(t, "get", "pods", "-n", ns, "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].restartCount} {.status.containerStatuses[*].state.running.startedAt}{"\n"}{end}`)
}

func TestKilledDaemonResumesWithEverythingItHad(t *testing.T) {
	b := ownBox(t, "--nodes", "2")
	webUp(t, b, "default", 3)
	b.apply(t, "default", `{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 5000}]}}`)
	eventually(t, 10*time.Second, func() error {
		if n := len(answers(t, b, "http://web", 30)); n != 3 {
			return fmt.Errorf("%d answer", n)
		}
		return nil
	})
	vip := jsonpath(t, b, "default", "svc/web", "{.spec.clusterIP}")
	kubeconfig := b.viaduct(t, "kubeconfig")
	before := containers(t, b, "default")

	for _, victim := range []string{"supervisor", "node"} {
		t.Run(victim, func(t *testing.T) {
			pid := pidOf(t, b, victim, "")
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			// The last thing that the API acknowledged before the kill counts
			// too, and traffic goes on meanwhile: rules and Pods are the
			// kernel's.
			if err := curlInside(t, b, "node-2", "http://"+vip+"/hostname"); err != nil {
				t.Errorf("with the %s dead: %v", victim, err)
			}
			if out, err := b.run(t.Context(), "", "up"); err != nil {
				t.Fatalf("viaduct up again: %v\n%s", err, out)
			}
			eventually(t, 20*time.Second, func() error {
				out, err := b.run(t.Context(), "", "kubectl", "get", "nodes", "--no-headers")
				if err != nil || strings.Count(out, " Ready ") != 2 {
					return fmt.Errorf("%v %s", err, out)
				}
				return nil
			})
			if after := containers(t, b, "default"); after != before {
				t.Errorf("containers before:\n%s\nafter:\n%s", before, after)
			}
			if after := b.viaduct(t, "kubeconfig"); after != kubeconfig {
				t.Errorf("the kubeconfig changed")
			}
			b.kubectl(t, "scale", "deployment/web", "--replicas=4")
			b.kubectl(t, "rollout", "status", "deployment/web", "--timeout=20s")
			b.kubectl(t, "scale", "deployment/web", "--replicas=3")
			b.kubectl(t, "rollout", "status", "deployment/web", "--timeout=20s")
			eventually(t, 20*time.Second, func() error {
				before = containers(t, b, "default")
				if n := strings.Count(strings.TrimSpace(before), "\n") + 1; n != 3 {
					return fmt.Errorf("%d Pods are left of the scaling, not 3", n)
				}
				return nil
			})
		})
	}
}

// curlInside fetches a URL from a node's namespace without asking Viaduct,
// whose daemon may be dead.
func curlInside(t *testing.T, b *box, node, url string) error {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", "netns", "exec", "viaduct-"+b.name+"-"+node, "curl", "-gsS", "--max-time", "3", url).CombinedOutput()
	if err != nil {
		return fmt.Errorf("curl %s on %s: %w: %s", url, node, err, out)
	}
	return nil
}

func TestKilledShimIsReplaced(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	webUp(t, b, ns, 1)
	pod := podNames(t, b, ns, "app=web")[0]
	uid := jsonpath(t, b, ns, "pod/"+pod, "{.metadata.uid}")
	pid := shimOf(t, uid)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func() error {
		out := b.kubectl(t, "get", "pod", pod, "-n", ns, "--no-headers")
		if f := strings.Fields(out); len(f) < 4 || f[1] != "1/1" || f[2] != "Running" || f[3] == "0" {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
}

// shimOf finds the process that holds a Pod.
func shimOf(t *testing.T, uid string) int {
	t.Helper()
	cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range cmdlines {
		text, _ := os.ReadFile(path)
		args := strings.Split(string(text), "\x00")
		if strings.Contains(args[0], "viaduct-shim") && strings.Contains(string(text), uid) {
			pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
			return pid
		}
	}
	t.Fatalf("no shim holds pod %s", uid)
	return 0
}

// trace is everything of the host that a box could leave behind.
func trace(t *testing.T, name string) []string {
	t.Helper()
	var found []string
	add := func(kind string, lines []string) {
		for _, l := range lines {
			if strings.Contains(l, name) {
				found = append(found, kind+": "+l)
			}
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	add("mount", strings.Split(string(mounts), "\n"))
	namespaces, _ := filepath.Glob("/run/netns/*")
	add("namespace", namespaces)
	for _, pattern := range []string{"/sys/fs/cgroup/*/viaduct/*", "/sys/fs/cgroup/viaduct/*"} {
		cgroups, _ := filepath.Glob(pattern)
		add("cgroup", cgroups)
	}
	links, _ := exec.Command("ip", "-o", "link").Output()
	add("link", strings.Split(string(links), "\n"))
	cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range cmdlines {
		text, _ := os.ReadFile(path)
		if path != fmt.Sprintf("/proc/%d/cmdline", os.Getpid()) {
			add("process "+path, []string{strings.ReplaceAll(string(text), "\x00", " ")})
		}
	}
	sort.Strings(found)
	return found
}

func TestDownLeavesNoTrace(t *testing.T) {
	for name, before := range map[string]func(*testing.T, *box){
		"after a clean life": func(*testing.T, *box) {},
		"after a crash": func(t *testing.T, b *box) {
			for _, p := range processes(t, b) {
				syscall.Kill(p.PID, syscall.SIGKILL)
			}
		},
		"after a down that was killed": func(t *testing.T, b *box) {
			cut := b.command(t.Context(), "down")
			if err := cut.Start(); err != nil {
				t.Fatal(err)
			}
			after := rand.N(150 * time.Millisecond)
			<-time.After(after) // the moment is the point, not a wait for something
			cut.Process.Kill()
			t.Logf("killed after %v: %v", after, cut.Wait())
		},
	} {
		t.Run(name, func(t *testing.T) {
			needRoot(t)
			b := newBox(t.TempDir(), fmt.Sprintf("gone%d%d", os.Getpid(), len(name)))
			t.Cleanup(func() { b.run(context.Background(), "", "down") })
			b.start(t)
			webUp(t, b, "default", 2)
			if len(trace(t, b.name)) == 0 {
				t.Fatal("the search for traces finds nothing of a running box: it is broken")
			}
			before(t, b)
			b.viaduct(t, "down")
			if left := trace(t, b.name); len(left) > 0 {
				t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
			}
			if _, err := os.Stat(filepath.Join(b.state, b.name)); !os.IsNotExist(err) {
				t.Errorf("the state directory is still there: %v", err)
			}
		})
	}
}

func TestTwoClustersAtOnce(t *testing.T) {
	a := cluster(t)
	b := ownBox(t)
	webUp(t, b, "default", 1)
	out := b.viaduct(t, "list")
	if !strings.Contains(out, b.name) {
		t.Errorf("list lacks %s:\n%s", b.name, out)
	}
	if out := a.kubectl(t, "get", "pods", "-n", "default", "-o", "name"); strings.Contains(out, "web") {
		t.Errorf("the other cluster's Pod is in this one:\n%s", out)
	}
}
