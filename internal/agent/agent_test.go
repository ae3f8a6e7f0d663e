package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"viaduct.dev/viaduct/internal/agent/runtime/builtin"
	"viaduct.dev/viaduct/internal/images"
	"viaduct.dev/viaduct/internal/lab"
	"viaduct.dev/viaduct/internal/lab/labtest"
	"viaduct.dev/viaduct/internal/pki"
)

// testNode is one node with real containers and an API that is a fake.
type testNode struct {
	t      *testing.T
	cfg    Config
	client *fake.Clientset
	ns     *lab.Namespace
	http   *http.Client
	cancel context.CancelFunc
	done   chan error

	relayed sync.Map // of a client's connections
}

const nodeIP = "172.20.0.11"

func newTestNode(t *testing.T) *testNode {
	t.Helper()
	labtest.NeedRoot(t)
	toolbox, err := builtin.Toolbox()
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	store, err := images.Open(filepath.Join(dir, "images"))
	must(err)
	must(store.EnsureToolbox(t.Context(), toolbox))
	rt, err := builtin.New(filepath.Join(dir, "bin"))
	must(err)
	ca, err := pki.Open(filepath.Join(dir, "pki"))
	must(err)
	ip := netip.MustParseAddr(nodeIP)
	serving, err := ca.Ensure("agent", pki.Agent("node-1", []netip.Addr{ip}))
	must(err)
	cert, err := serving.TLS()
	must(err)
	caller, err := ca.Ensure("client", pki.Client("admin", "system:masters"))
	must(err)
	callerCert, err := caller.TLS()
	must(err)
	ns := labtest.New(t)
	must(ns.AddBridge("eth0"))
	must(ns.AddAddress("eth0", netip.MustParsePrefix(nodeIP+"/16")))
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.0.0/24", "fd00:10:244::/64"}}}
	client := fake.NewClientset(node,
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: "default"}, Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP}}}})
	cgroup := fmt.Sprintf("/viaduct/agenttest%d/%x", os.Getpid(), time.Now().UnixNano())
	n := &testNode{t: t, client: client, ns: ns, cfg: Config{
		NodeName: "node-1", NodeIPs: []netip.Addr{ip}, Node: ns, Client: client, Runtime: rt, Images: store,
		StateDir: filepath.Join(dir, "node"), CgroupRoot: cgroup, ClusterDNS: []netip.Addr{netip.MustParseAddr("10.96.0.10")},
		ClusterDomain: "cluster.local", ServingCert: cert, ClientCAs: ca.Pool(), Version: "v1.37.2",
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}}
	n.http = &http.Client{Transport: &http.Transport{DialContext: ns.DialContext, DisableKeepAlives: true, TLSClientConfig: &tls.Config{
		RootCAs: ca.Pool(), Certificates: []tls.Certificate{callerCert},
	}}}
	t.Cleanup(func() {
		n.stop()
		dirs, _ := filepath.Glob(filepath.Join(n.cfg.StateDir, "pods", "*"))
		for _, d := range dirs {
			if p, err := rt.OpenPod(context.Background(), d); err == nil {
				p.Stop(context.Background())
			}
			if err := rt.CleanUp(context.Background(), d); err != nil {
				t.Error(err)
			}
			if err := removeVolumes(d); err != nil {
				t.Error(err)
			}
		}
		builtin.RemoveCgroups(context.Background(), filepath.Dir(cgroup))
	})
	n.start()
	return n
}

func (n *testNode) start() {
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.done = cancel, make(chan error, 1)
	n.cfg.Informers = informers.NewSharedInformerFactory(n.client, 0)
	done, cfg := n.done, n.cfg
	go func() {
		err := Run(ctx, cfg)
		cfg.Informers.Shutdown()
		done <- err
	}()
}

func (n *testNode) stop() {
	if n.cancel == nil {
		return
	}
	n.cancel()
	n.cancel = nil
	select {
	case err := <-n.done:
		if err != nil {
			n.t.Error(err)
		}
	case <-time.After(20 * time.Second):
		n.t.Error("the agent does not end")
	}
}

// pod creates a Pod of one container.
func (n *testNode) pod(name string, change func(*corev1.Pod), args ...string) *corev1.Pod {
	n.t.Helper()
	grace := int64(5)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name), Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{NodeName: "node-1", RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "c", Image: "viaduct/toolbox", ImagePullPolicy: corev1.PullIfNotPresent, Args: args}}},
	}
	if change != nil {
		change(p)
	}
	if _, err := n.client.CoreV1().Pods("default").Create(n.t.Context(), p, metav1.CreateOptions{}); err != nil {
		n.t.Fatal(err)
	}
	return p
}

// until waits for a Pod to be as it should.
func (n *testNode) until(name, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	n.t.Helper()
	var last *corev1.Pod
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); pause(n.t.Context(), 5*time.Millisecond) {
		p, err := n.client.CoreV1().Pods("default").Get(n.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			p = nil
		}
		if last = p; ok(p) {
			return p
		}
	}
	if last != nil {
		n.t.Fatalf("pod %s is not %s: %+v", name, what, last.Status)
	}
	n.t.Fatalf("pod %s is not %s: it is not there", name, what)
	return nil
}

func ready(p *corev1.Pod) bool {
	if p == nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (n *testNode) logs(name, query string) string {
	n.t.Helper()
	resp, err := n.http.Get("https://" + nodeIP + ":10250/containerLogs/default/" + name + "/c?" + query)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return string(text)
}

func (n *testNode) delete(name string) {
	n.t.Helper()
	p, err := n.client.CoreV1().Pods("default").Get(n.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	now, grace := metav1.Now(), int64(5)
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &grace
	if _, err := n.client.CoreV1().Pods("default").Update(n.t.Context(), p, metav1.UpdateOptions{}); err != nil {
		n.t.Fatal(err)
	}
}

func serving(p *corev1.Pod) {
	p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
		HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(5000)}}}
}

func TestPodServesSurvivesTheAgentAndGoes(t *testing.T) {
	n := newTestNode(t)
	began := time.Now()
	n.pod("web", serving, "serve", "--http", ":5000")
	p := n.until("web", "ready", ready)
	t.Logf("ready after %s", time.Since(began))
	if p.Status.Phase != corev1.PodRunning || p.Status.PodIP != "10.244.0.2" || len(p.Status.PodIPs) != 2 || p.Status.HostIP != nodeIP {
		t.Errorf("status %+v", p.Status)
	}
	get := func() {
		t.Helper()
		resp, err := n.http.Get("http://" + net.JoinHostPort(p.Status.PodIP, "5000") + "/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	get()

	n.stop()
	get() // the container does not notice
	n.start()
	n.pod("second", serving, "serve", "--http", ":5000")
	second := n.until("second", "ready", ready)
	if second.Status.PodIP == p.Status.PodIP {
		t.Errorf("two pods have %s", p.Status.PodIP)
	}
	after := n.until("web", "ready", ready)
	was, is := p.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]
	if is.RestartCount != 0 || is.ContainerID != was.ContainerID || after.Status.PodIP != p.Status.PodIP {
		t.Errorf("before the restart of the agent %+v, after it %+v", was, is)
	}
	get()

	n.delete("web")
	n.until("web", "gone", func(p *corev1.Pod) bool { return p == nil })
	for deadline := time.Now().Add(10 * time.Second); ; pause(t.Context(), 5*time.Millisecond) {
		if _, err := os.Stat(filepath.Join(n.cfg.StateDir, "pods", "uid-web")); os.IsNotExist(err) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the pod's directory is left")
		}
	}
}

func TestPodDeletedWhileNoAgentRunsIsRemoved(t *testing.T) {
	n := newTestNode(t)
	n.pod("web", serving, "serve", "--http", ":5000")
	n.until("web", "ready", ready)
	n.stop()
	if err := n.client.CoreV1().Pods("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	n.start()
	for deadline := time.Now().Add(10 * time.Second); ; pause(t.Context(), 5*time.Millisecond) {
		if _, err := os.Stat(filepath.Join(n.cfg.StateDir, "pods", "uid-web")); os.IsNotExist(err) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the pod's directory is left")
		}
	}
}

// The agent that comes back asks the Pod that it finds, not nobody.
func TestAProbeGoesOnAtTheSameAddressAfterARestart(t *testing.T) {
	n := newTestNode(t)
	n.pod("late", func(p *corev1.Pod) {
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: corev1.ProbeHandler{
			TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(5001)}}}
	}, "serve", "--http", ":5000")
	n.until("late", "running", func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == corev1.PodRunning })
	n.stop()
	sandbox, err := n.cfg.Runtime.OpenPod(t.Context(), filepath.Join(n.cfg.StateDir, "pods", "uid-late"))
	if err != nil {
		t.Fatal(err)
	}
	inside, err := lab.Open(sandbox.NetNS())
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	port, err := inside.Listen(t.Context(), "tcp", ":5001")
	if err != nil {
		t.Fatal(err)
	}
	n.start()
	n.until("late", "ready", ready)
	port.Close()
	n.until("late", "unready", func(p *corev1.Pod) bool { return p != nil && !ready(p) })
}

// A sandbox may outlive an agent that had not come to its files yet.
func TestASandboxWithoutItsFilesIsCompleted(t *testing.T) {
	n := newTestNode(t)
	n.pod("half", nil, "serve", "--http", ":5000")
	runs := func(p *corev1.Pod) bool {
		return p != nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Running != nil
	}
	was := n.until("half", "running", runs).Status.ContainerStatuses[0].ContainerID
	n.stop()
	dir := filepath.Join(n.cfg.StateDir, "pods", "uid-half")
	sandbox, err := n.cfg.Runtime.OpenPod(t.Context(), dir)
	if err == nil {
		err = sandbox.RemoveContainer(t.Context(), "c-0")
	}
	for _, file := range []string{"etc-hosts", "etc-hostname", "etc-resolv"} {
		err = errors.Join(err, os.Remove(filepath.Join(dir, file)))
	}
	if err != nil {
		t.Fatal(err)
	}
	n.start()
	n.until("half", "running again", func(p *corev1.Pod) bool { return runs(p) && p.Status.ContainerStatuses[0].ContainerID != was })
}

func TestContainerGetsItsEnvironmentAndFiles(t *testing.T) {
	n := newTestNode(t)
	_, err := n.client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "settings", Namespace: "default"}, Data: map[string]string{"COLOUR": "blue"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.pod("env", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		c := &p.Spec.Containers[0]
		c.EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}
		c.Env = []corev1.EnvVar{
			{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
			{Name: "BOTH", Value: "$(COLOUR) at $(IP), $$(IP), $(NOBODY), $(KUBERNETES_SERVICE_HOST)"},
		}
	}, "env")
	n.until("env", "succeeded", func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == corev1.PodSucceeded })
	text := n.logs("env", "")
	for _, want := range []string{"COLOUR=blue\n", "IP=10.244.0.2\n", "BOTH=blue at 10.244.0.2, $(IP), $(NOBODY), 10.96.0.1\n", "KUBERNETES_SERVICE_PORT=443\n", "HOSTNAME=env\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("the environment lacks %q:\n%s", want, text)
		}
	}

	n.pod("files", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.DNSPolicy = corev1.DNSClusterFirst
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	}, "cat", "/v/COLOUR", "/etc/resolv.conf", "/etc/hosts")
	n.until("files", "succeeded", func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == corev1.PodSucceeded })
	text = n.logs("files", "")
	for _, want := range []string{"blue", "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n", "\tfiles\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("the files lack %q:\n%s", want, text)
		}
	}
}

func TestSubPathThatLeavesItsVolumeIsRefused(t *testing.T) {
	n := newTestNode(t)
	volume := t.TempDir()
	if err := os.Symlink("/etc", filepath.Join(volume, "away")); err != nil {
		t.Fatal(err)
	}
	for name, sub := range map[string]string{"escapes": "away", "stays": "made/here"} {
		n.pod(name, func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: volume}}}}
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v", SubPath: sub}}
		}, "touch", "/v/file")
	}
	n.until("stays", "succeeded", func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == corev1.PodSucceeded })
	if _, err := os.Stat(filepath.Join(volume, "made/here/file")); err != nil {
		t.Error(err)
	}
	n.until("escapes", "refused", func(p *corev1.Pod) bool {
		return p != nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "CreateContainerConfigError" &&
			strings.Contains(p.Status.ContainerStatuses[0].State.Waiting.Message, "failed to prepare subPath for volumeMount \"v\" of container \"c\"")
	})
}

func TestFailingContainerBacksOff(t *testing.T) {
	n := newTestNode(t)
	n.pod("fails", nil, "exit", "3")
	p := n.until("fails", "backing off", func(p *corev1.Pod) bool {
		return p != nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "CrashLoopBackOff"
	})
	s := p.Status.ContainerStatuses[0]
	if s.RestartCount != 1 || s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 3 ||
		s.State.Waiting.Message != "back-off 10s restarting failed container=c pod=fails_default(uid-fails)" {
		t.Errorf("%+v", s)
	}
}

func TestAbsentImageIsNamed(t *testing.T) {
	n := newTestNode(t)
	n.pod("absent", func(p *corev1.Pod) {
		p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "nobody/nothing:1", corev1.PullNever
	})
	n.until("absent", "waiting", func(p *corev1.Pod) bool {
		return p != nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "ErrImageNeverPull" && p.Status.Phase == corev1.PodPending
	})
	n.delete("absent")
	n.until("absent", "gone", func(p *corev1.Pod) bool { return p == nil })
}

func TestInitContainersRunInOrder(t *testing.T) {
	n := newTestNode(t)
	n.pod("init", func(p *corev1.Pod) {
		mount := []corev1.VolumeMount{{Name: "d", MountPath: "/d"}}
		p.Spec.Volumes = []corev1.Volume{{Name: "d", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}}}
		p.Spec.InitContainers = []corev1.Container{
			{Name: "one", Image: "viaduct/toolbox", ImagePullPolicy: corev1.PullNever, Args: []string{"touch", "/d/one"}, VolumeMounts: mount},
			{Name: "two", Image: "viaduct/toolbox", ImagePullPolicy: corev1.PullNever, Args: []string{"cat", "/d/one"}, VolumeMounts: mount},
		}
		p.Spec.Containers[0].VolumeMounts = mount
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
	}, "ls", "/d")
	n.until("init", "succeeded", func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == corev1.PodSucceeded })
	if text := n.logs("init", "tailLines=1"); text != "one\n" {
		t.Errorf("log %q", text)
	}
	n.delete("init")
	n.until("init", "gone", func(p *corev1.Pod) bool { return p == nil })
}

func TestLogIsReadAsAsked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	stamp := func(s int) string { return fmt.Sprintf("2026-01-02T15:04:0%d.5Z", s) }
	os.WriteFile(path+".1", []byte(stamp(1)+" stdout F first\n"), 0o600)
	os.WriteFile(path, []byte(stamp(2)+" stdout P sec\n"+stamp(2)+" stdout F ond\n"+stamp(3)+" stderr F third\n"), 0o600)
	number := func(n int64) *int64 { return &n }
	since, _ := time.Parse(time.RFC3339, stamp(3))
	for _, c := range []struct {
		name string
		opts corev1.PodLogOptions
		want string
	}{
		{"all", corev1.PodLogOptions{}, "first\nsecond\nthird\n"},
		{"the last line", corev1.PodLogOptions{TailLines: number(1)}, "third\n"},
		{"a line of two parts counts once", corev1.PodLogOptions{TailLines: number(2)}, "second\nthird\n"},
		{"none", corev1.PodLogOptions{TailLines: number(0)}, ""},
		{"since a time", corev1.PodLogOptions{SinceTime: &metav1.Time{Time: since}}, "third\n"},
		{"a number of bytes", corev1.PodLogOptions{LimitBytes: number(8)}, "first\nse"},
		{"with times", corev1.PodLogOptions{Timestamps: true, TailLines: number(2)}, stamp(2) + " second\n" + stamp(3) + " third\n"},
	} {
		var b bytes.Buffer
		if err := writeLog(t.Context(), path, nil, &c.opts, &b, func() {}); err != nil || b.String() != c.want {
			t.Errorf("%s: %q, want %q (%v)", c.name, b.String(), c.want, err)
		}
	}
}
