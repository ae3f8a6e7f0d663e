package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"archive/tar"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"viaduct.dev/viaduct/internal/agent/runtime/builtin"
)

// finished waits until a Pod has ended and gives its log.
func finished(t *testing.T, b *box, ns, pod, phase string) string {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		if got := jsonpath(t, b, ns, "pod/"+pod, "{.status.phase}"); got != phase {
			return fmt.Errorf("pod %s is %s, not %s", pod, got, phase)
		}
		return nil
	})
	return b.kubectl(t, "logs", "-n", ns, pod)
}

func TestWhatAPodAsksForIsWhatItsContainerHas(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	b.kubectl(t, "create", "secret", "generic", "sec", "-n", ns, "--from-literal=word=swordfish")
	for _, c := range []struct{ name, spec, phase, want string }{
		{"secret-volume", `volumes: [{name: v, secret: {secretName: sec}}], containers: [{name: c, image: "viaduct/toolbox:1", args: [cat, /v/word], volumeMounts: [{name: v, mountPath: /v}]}]`, "Succeeded", "swordfish"},
		{"projected-volume", `volumes: [{name: v, projected: {sources: [{secret: {name: sec}}, {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}]}}], containers: [{name: c, image: "viaduct/toolbox:1", args: [cat, /v/word, /v/name], volumeMounts: [{name: v, mountPath: /v}]}]`, "Succeeded", "swordfishprojected-volume"},
		{"user", `securityContext: {runAsUser: 1234, runAsGroup: 4321}, containers: [{name: c, image: "viaduct/toolbox:1", args: [cat, /proc/self/status]}]`, "Succeeded", "Uid:\t1234\t1234\t1234\t1234\nGid:\t4321"},
		{"read-only", `containers: [{name: c, image: "viaduct/toolbox:1", args: [touch, /file], securityContext: {readOnlyRootFilesystem: true}}]`, "Failed", "read-only file system"},
		{"capabilities", `containers: [{name: c, image: "viaduct/toolbox:1", args: [cat, /proc/self/status], securityContext: {capabilities: {drop: [ALL]}}}]`, "Succeeded", "CapEff:\t0000000000000000"},
		{"command", `containers: [{name: c, image: "viaduct/toolbox:1", command: [/bin/echo], args: [$(WHAT), "$$(WHAT)"], env: [{name: WHAT, value: said}]}]`, "Succeeded", "said $(WHAT)"},
		{"init", `volumes: [{name: v, emptyDir: {}}], initContainers: [{name: i, image: "viaduct/toolbox:1", args: [touch, /v/first], volumeMounts: [{name: v, mountPath: /v}]}], containers: [{name: c, image: "viaduct/toolbox:1", args: [ls, /v], volumeMounts: [{name: v, mountPath: /v}]}]`, "Succeeded", "first"},
		{"aliases", `hostAliases: [{ip: 192.0.2.5, hostnames: [alias.example]}], containers: [{name: c, image: "viaduct/toolbox:1", args: [cat, /etc/hosts]}]`, "Succeeded", "192.0.2.5\talias.example"},
		{"dns-none", `dnsPolicy: None, dnsConfig: {nameservers: [192.0.2.53], searches: [corp.example], options: [{name: ndots, value: "2"}]}, containers: [{name: c, image: "viaduct/toolbox:1", args: [cat, /etc/resolv.conf]}]`, "Succeeded", "nameserver 192.0.2.53"},
		{"code", `containers: [{name: c, image: "viaduct/toolbox:1", args: [exit, "3"]}]`, "Failed", ""},
	} {
		b.apply(t, ns, fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {restartPolicy: Never, %s}}`, c.name, c.spec))
		if out := finished(t, b, ns, c.name, c.phase); !strings.Contains(out, c.want) {
			t.Errorf("%s: its log lacks %q:\n%s", c.name, c.want, out)
		}
	}
	if code := jsonpath(t, b, ns, "pod/code", "{.status.containerStatuses[0].state.terminated.exitCode}"); code != "3" {
		t.Errorf("exit code %s, not 3", code)
	}
}

func TestLimitsReachTheCgroup(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	b.apply(t, ns, `{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: "viaduct/toolbox:1", args: [sleep, infinity], resources: {limits: {memory: 64Mi, cpu: 250m}}}]}}`)
	b.kubectl(t, "wait", "pod/p", "-n", ns, "--for=condition=Ready", "--timeout=20s")
	if qos := jsonpath(t, b, ns, "pod/p", "{.status.qosClass}"); qos != "Guaranteed" {
		t.Errorf("its quality of service is %s", qos)
	}
	uid := jsonpath(t, b, ns, "pod/p", "{.metadata.uid}")
	find := func(controller, file string) string {
		paths, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", controller, "viaduct", b.name, "*", "pod"+uid, "*", file))
		if len(paths) != 1 {
			t.Fatalf("%s of pod %s: %v", file, uid, paths)
		}
		text, _ := os.ReadFile(paths[0])
		return strings.TrimSpace(string(text))
	}
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err != nil {
		if got := find("", "memory.max"); got != fmt.Sprint(64<<20) {
			t.Errorf("memory.max %s", got)
		}
		return
	}
	if got := find("memory", "memory.limit_in_bytes"); got != fmt.Sprint(64<<20) {
		t.Errorf("memory limit %s", got)
	}
	if got := find("cpu", "cpu.cfs_quota_us"); got != "25000" {
		t.Errorf("CPU quota %s", got)
	}
}

func TestHooksProbesAndHostNetwork(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	b.apply(t, ns, `
apiVersion: v1
kind: Pod
metadata: {name: hooked}
spec:
  terminationGracePeriodSeconds: 5
  volumes: [{name: host, hostPath: {path: `+dir+`, type: Directory}}]
  containers:
  - name: c
    image: viaduct/toolbox:1
    args: [serve, "--tcp=:7000", "--http=:7001"]
    volumeMounts: [{name: host, mountPath: /host}]
    startupProbe: {tcpSocket: {port: 7000}, periodSeconds: 1}
    livenessProbe: {httpGet: {path: /, port: 7001}, periodSeconds: 1}
    lifecycle: {postStart: {exec: {command: [touch, /host/started]}}, preStop: {exec: {command: [touch, /host/stopping]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: dying}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "viaduct/toolbox:1", args: [sleep, infinity], livenessProbe: {exec: {command: [cat, /nothing]}, periodSeconds: 1, failureThreshold: 1}}]
---
apiVersion: v1
kind: Pod
metadata: {name: host}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "viaduct/toolbox:1", args: [serve, "--http=:7878"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: again}
spec: {restartPolicy: OnFailure, containers: [{name: c, image: "viaduct/toolbox:1", args: ["false"]}]}
`)
	b.kubectl(t, "wait", "pod/hooked", "pod/host", "-n", ns, "--for=condition=Ready", "--timeout=20s")
	if _, err := os.Stat(dir + "/started"); err != nil {
		t.Errorf("postStart did not run: %v", err)
	}
	if ip, host := jsonpath(t, b, ns, "pod/host", "{.status.podIP}"), jsonpath(t, b, ns, "pod/host", "{.status.hostIP}"); ip != host {
		t.Errorf("a Pod on the host's network has address %s, its node %s", ip, host)
	} else if err := b.tryShell(t, "curl", "-sS", "--max-time", "2", "http://"+ip+":7878/hostname"); err != nil {
		t.Error(err)
	}
	for _, pod := range []string{"dying", "again"} {
		eventually(t, 30*time.Second, func() error {
			if n := jsonpath(t, b, ns, "pod/"+pod, "{.status.containerStatuses[0].restartCount}"); n == "" || n == "0" {
				return fmt.Errorf("%s was not restarted", pod)
			}
			return nil
		})
	}
	b.kubectl(t, "delete", "pod", "hooked", "-n", ns)
	if _, err := os.Stat(dir + "/stopping"); err != nil {
		t.Errorf("preStop did not run: %v", err)
	}
}

func TestConfigMapVolumeFollowsItsConfigMap(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	b.kubectl(t, "create", "configmap", "conf", "-n", ns, "--from-literal=k=old")
	b.apply(t, ns, `{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {terminationGracePeriodSeconds: 1, volumes: [{name: v, configMap: {name: conf}}], containers: [{name: c, image: "viaduct/toolbox:1", args: [sleep, infinity], volumeMounts: [{name: v, mountPath: /v}]}]}}`)
	b.kubectl(t, "wait", "pod/p", "-n", ns, "--for=condition=Ready", "--timeout=20s")
	read := func(want string) func() error {
		return func() error {
			out, err := b.run(t.Context(), "", "kubectl", "exec", "-n", ns, "p", "--", "cat", "/v/k")
			if err != nil || strings.TrimSpace(out) != want {
				return fmt.Errorf("%v %q, want %q", err, out, want)
			}
			return nil
		}
	}
	eventually(t, 5*time.Second, read("old"))
	b.kubectl(t, "patch", "configmap", "conf", "-n", ns, "-p", `{"data":{"k":"new"}}`)
	eventually(t, 90*time.Second, read("new"))
}

func TestImageIsPulledFromARegistryOnTheHostsLoopback(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	toolbox, err := builtin.Toolbox()
	if err != nil {
		t.Fatal(err)
	}
	var content bytes.Buffer
	w := tar.NewWriter(&content)
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "app", Mode: 0o755, Size: int64(len(toolbox))})
	w.Write(toolbox)
	w.Close()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err == nil {
		img, err = mutate.Config(img, v1.Config{Entrypoint: []string{"/app"}, Cmd: []string{"echo", "pulled and run"}})
	}
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New())
	defer server.Close()
	ref := strings.TrimPrefix(server.URL, "http://") + "/team/app:1"
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
	b.apply(t, ns, fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {restartPolicy: Never, containers: [{name: c, image: %q}]}}`, ref))
	if out := finished(t, b, ns, "p", "Succeeded"); !strings.Contains(out, "pulled and run") {
		t.Errorf("its log:\n%s", out)
	}
	if out := b.kubectl(t, "get", "events", "-n", ns); !strings.Contains(out, "Pulling") || !strings.Contains(out, "Successfully pulled image") {
		t.Errorf("the events do not tell of the pull:\n%s", out)
	}
}
