package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
)

// client gives a client's configuration of the kubelet's API, which is reached
// through a relay on the loopback: client-go dials streams itself.
func (n *testNode) clientConfig() (*rest.Config, string) {
	n.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.relayed.Store(c, nil)
			go func() {
				defer c.Close()
				to, err := n.ns.DialContext(context.Background(), "tcp", nodeIP+":10250")
				if err != nil {
					return
				}
				defer to.Close()
				go func() {
					io.Copy(to, c)
					to.Close()
				}()
				io.Copy(c, to)
			}()
		}
	}()
	pki := filepath.Join(filepath.Dir(n.cfg.StateDir), "pki")
	cfg := &rest.Config{Host: "https://" + l.Addr().String(), TLSClientConfig: rest.TLSClientConfig{
		ServerName: nodeIP, CAFile: filepath.Join(pki, "ca.crt"),
		CertFile: filepath.Join(pki, "client.crt"), KeyFile: filepath.Join(pki, "client.key"),
	}}
	return cfg, l.Addr().String()
}

// cut ends every connection that a client has.
func (n *testNode) cut() {
	n.relayed.Range(func(c, _ any) bool {
		c.(net.Conn).Close()
		return true
	})
}

func TestExecCarriesStreamsAndExitCodes(t *testing.T) {
	n := newTestNode(t)
	n.pod("web", serving, "serve", "--http", ":5000")
	n.until("web", "ready", ready)
	cfg, host := n.clientConfig()
	// WebSocket clients are translated to SPDY by the API, as in Kubernetes.
	run := func(in string, tty bool, cmd ...string) (string, string, error) {
		q := url.Values{"command": cmd, "output": {"1"}}
		opts := remotecommand.StreamOptions{Tty: tty}
		var out, stderr bytes.Buffer
		opts.Stdout = &out
		if tty {
			q.Set("tty", "1")
		} else {
			q.Set("error", "1")
			opts.Stderr = &stderr
		}
		if in != "" {
			q.Set("input", "1")
			opts.Stdin = strings.NewReader(in)
		}
		executor, err := remotecommand.NewSPDYExecutor(cfg, http.MethodPost,
			&url.URL{Scheme: "https", Host: host, Path: "/exec/default/web/c", RawQuery: q.Encode()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err = executor.StreamWithContext(ctx, opts)
		return out.String(), stderr.String(), err
	}
	if out, _, err := run("", false, "echo", "hello", "there"); err != nil || out != "hello there\n" {
		t.Errorf("echo gave %q %v", out, err)
	}
	if out, _, err := run("from outside", false, "cat"); err != nil || out != "from outside" {
		t.Errorf("cat gave %q %v", out, err)
	}
	if out, _, err := run("", true, "echo", "on a terminal"); err != nil || out != "on a terminal\r\n" {
		t.Errorf("a terminal gave %q %v", out, err)
	}
	_, _, err := run("", false, "toolbox", "exit", "7")
	var code utilexec.ExitError
	if !errors.As(err, &code) || code.ExitStatus() != 7 {
		t.Errorf("exit 7 gave %v", err)
	}
	if _, stderr, _ := run("", false, "toolbox", "nonsense"); !strings.Contains(stderr, "nonsense") {
		t.Errorf("standard error %q", stderr)
	}
}

func TestAttachReachesAContainerThatWasStartedByAnotherAgent(t *testing.T) {
	n := newTestNode(t)
	n.pod("asks", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers[0].Stdin, p.Spec.Containers[0].StdinOnce = true, true
	}, "cat")
	n.until("asks", "ready", ready)
	n.stop()
	n.start()
	cfg, host := n.clientConfig()
	attach := func(ctx context.Context, in io.Reader, out io.Writer) error {
		q := url.Values{"output": {"1"}, "error": {"1"}}
		if in != nil {
			q.Set("input", "1")
		}
		executor, err := remotecommand.NewSPDYExecutor(cfg, http.MethodPost,
			&url.URL{Scheme: "https", Host: host, Path: "/attach/default/asks/c", RawQuery: q.Encode()})
		if err != nil {
			return err
		}
		return executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: out, Stderr: io.Discard})
	}
	for deadline := time.Now().Add(10 * time.Second); ; pause(t.Context(), 5*time.Millisecond) {
		if resp, err := n.http.Get("https://" + nodeIP + ":10250/attach/default/asks/c?output=1"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusBadRequest {
				break // the container is known again; this is no way to ask for streams
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the new agent does not know the container")
		}
	}
	// One who leaves without a word takes nothing with him, and leaves nothing.
	sandbox, err := n.cfg.Runtime.OpenPod(t.Context(), filepath.Join(n.cfg.StateDir, "pods", "uid-asks"))
	if err != nil {
		t.Fatal(err)
	}
	pipes := func() (n int) { // that the shim has
		all, _ := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(sandbox.NetNS())), "fd", "*"))
		for _, fd := range all {
			if to, _ := os.Readlink(fd); strings.HasPrefix(to, "pipe:") {
				n++
			}
		}
		return n
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !ok(); pause(t.Context(), 5*time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not %s", what)
			}
		}
	}
	before := pipes()
	for name, leave := range map[string]func(context.CancelFunc){
		"says goodbye": func(cancel context.CancelFunc) { cancel() },
		"is cut off":   func(context.CancelFunc) { n.cut() },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		go attach(ctx, nil, io.Discard) // not waited for: client-go may look for lost answers for half a minute
		until("attached who "+name, func() bool { return pipes() > before })
		leave(cancel)
		until("forgotten who "+name, func() bool { return pipes() <= before })
		cancel()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var out bytes.Buffer
	if err := attach(ctx, strings.NewReader("from outside\n"), &out); err != nil || out.String() != "from outside\n" {
		t.Errorf("attached, it said %q (%v)", out.String(), err)
	}
	n.until("asks", "succeeded", func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == corev1.PodSucceeded })
	if text := n.logs("asks", ""); text != "from outside\n" {
		t.Errorf("log %q", text)
	}
}

func TestPortForwardReachesThePod(t *testing.T) {
	n := newTestNode(t)
	n.pod("web", serving, "serve", "--http", ":5000")
	n.until("web", "ready", ready)
	cfg, host := n.clientConfig()
	transport, upgrader, err := spdy.RoundTripperFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost,
		&url.URL{Scheme: "https", Host: host, Path: "/portForward/default/web"})
	stop, up := make(chan struct{}), make(chan struct{})
	f, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:5000"}, stop, up, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.ForwardPorts() }()
	select {
	case <-up:
	case err := <-done:
		t.Fatal(err)
	case <-time.After(10 * time.Second):
		t.Fatal("the port is not forwarded")
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", ports[0].Local))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || len(text) == 0 {
		t.Errorf("%s %q", resp.Status, text)
	}
	close(stop)
	<-done
}

func TestCallerWithoutACertificateIsTurnedAway(t *testing.T) {
	n := newTestNode(t)
	n.pod("web", nil, "sleep", "infinity")
	n.until("web", "ready", ready)
	transport := n.http.Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.Certificates = nil
	resp, err := (&http.Client{Transport: transport}).Get("https://" + nodeIP + ":10250/pods")
	if err == nil {
		resp.Body.Close()
		t.Errorf("answered with %s", resp.Status)
	}
}

func TestPodWhoseShimWasKilledRunsAgain(t *testing.T) {
	n := newTestNode(t)
	n.pod("web", serving, "serve", "--http", ":5000")
	n.until("web", "ready", ready)
	text, err := os.ReadFile(filepath.Join(n.cfg.StateDir, "pods", "uid-web", "runtime", "shim.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.FieldsFunc(string(text), func(r rune) bool { return r < '0' || r > '9' })[0])
	if err != nil || pid < 2 {
		t.Fatalf("the shim's process: %q %v", text, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p := n.until("web", "restarted", func(p *corev1.Pod) bool {
		return ready(p) && p.Status.ContainerStatuses[0].RestartCount == 1
	})
	last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated
	if last == nil || last.ExitCode != 137 {
		t.Errorf("the run before ended with %+v", last)
	}
}

func TestLivenessProbeRestartsTheContainer(t *testing.T) {
	n := newTestNode(t)
	n.pod("sick", func(p *corev1.Pod) {
		p.Spec.Containers[0].LivenessProbe = &corev1.Probe{FailureThreshold: 1, PeriodSeconds: 1,
			ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"false"}}}}
	}, "serve", "--http", ":5000")
	n.until("sick", "restarted", func(p *corev1.Pod) bool {
		return p != nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount > 0
	})
}
