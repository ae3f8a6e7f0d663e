package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"viaduct.dev/viaduct/internal/agent/runtime"
)

// startProbes begins a container's probes. found says that the run was there
// before this agent: its readiness is then what the Pod's status says, until a
// probe says otherwise.
func (w *worker) startProbes(c *container, found bool) {
	c.stopProbes(false)
	ctx, cancel := context.WithCancel(w.ctx)
	lasting, cancelLasting := context.WithCancel(ctx)
	c.lasting, c.probes = cancel, cancelLasting
	if !found {
		c.ready, c.started = c.spec.ReadinessProbe == nil && c.spec.StartupProbe == nil, c.spec.StartupProbe == nil
	}
	c.everStarted = c.everStarted || c.started
	run := c.run.Attempt
	after := func() {
		if p := c.spec.ReadinessProbe; p != nil {
			w.probe(ctx, c, run, "Readiness", p, c.ready, func(ok bool) { c.ready = ok })
		} else {
			c.ready = true
		}
		if p := c.spec.LivenessProbe; p != nil {
			w.probe(lasting, c, run, "Liveness", p, true, func(ok bool) {
				if !ok {
					w.stop(c, w.probeDeadline(p), fmt.Sprintf("Container %s failed liveness probe, will be restarted", c.spec.Name))
				}
			})
		}
	}
	if p := c.spec.StartupProbe; p != nil && !c.started {
		startup, stopStartup := context.WithCancel(lasting)
		w.probe(startup, c, run, "Startup", p, false, func(ok bool) {
			stopStartup()
			if !ok {
				w.stop(c, w.probeDeadline(p), fmt.Sprintf("Container %s failed startup probe, will be restarted", c.spec.Name))
				return
			}
			c.started, c.everStarted = true, true
			after()
		})
		return
	}
	after()
}

// stopProbes ends the probes of a container. One that is being stopped goes on
// telling whether it is ready.
func (c *container) stopProbes(keepReadiness bool) {
	if c.probes != nil {
		c.probes()
	}
	if c.lasting != nil && !keepReadiness {
		c.lasting()
	}
}

func (w *worker) probeDeadline(p *corev1.Probe) time.Time {
	if s := p.TerminationGracePeriodSeconds; s != nil {
		return time.Now().Add(time.Duration(max(*s, 1)) * time.Second)
	}
	return w.deadline()
}

// probe runs one probe of one run of a container until ctx ends. changed is
// called on the worker's goroutine whenever the probe has made up its mind anew.
func (w *worker) probe(ctx context.Context, c *container, run int, kind string, p *corev1.Probe, ok bool, changed func(ok bool)) {
	spec, id, pod := c.spec, c.run.ID, w.pod
	v := &view{pod: w.pod, sandbox: w.sandbox, ips: w.ips}
	when := newProbing(p, kind, c.run.StartedAt, ok)
	w.wg.Go(func() {
		when.run(ctx, func(ctx context.Context) error { return w.try(ctx, v, spec, id, p) }, func(err error) {
			w.a.events.Eventf(&corev1.ObjectReference{
				APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
				ResourceVersion: pod.ResourceVersion, FieldPath: "spec.containers{" + spec.Name + "}",
			}, corev1.EventTypeWarning, "Unhealthy", "%s probe failed: %v", kind, err)
		}, func(ok bool) {
			w.post(func() {
				if ctx.Err() == nil && c.running() && c.run.Attempt == run {
					changed(ok)
				}
			})
		})
	})
}

// try runs a probe once.
func (w *worker) try(ctx context.Context, v *view, spec *corev1.Container, id string, p *corev1.Probe) error {
	timeout := time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case p.Exec != nil:
		out, code, err := capture(ctx, v.sandbox, id, p.Exec.Command)
		if ctx.Err() != nil {
			return fmt.Errorf("command timed out: %q timed out after %s", strings.Join(p.Exec.Command, " "), timeout)
		}
		if err != nil {
			return err
		}
		if code != 0 {
			return errors.New(out)
		}
		return nil
	case p.HTTPGet != nil:
		code, err := w.httpGet(ctx, v, spec, p.HTTPGet, "kube-probe/1.37")
		if err == nil && (code < 200 || code >= 400) {
			return fmt.Errorf("HTTP probe failed with statuscode: %d", code)
		}
		return err
	case p.TCPSocket != nil:
		addr, err := address(v, spec, p.TCPSocket.Host, p.TCPSocket.Port)
		if err != nil {
			return err
		}
		conn, err := w.a.node.DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	case p.GRPC != nil:
		return w.grpcHealth(ctx, v, spec, p.GRPC)
	}
	return errors.New("missing probe handler")
}

func (w *worker) grpcHealth(ctx context.Context, v *view, spec *corev1.Container, g *corev1.GRPCAction) error {
	addr, err := address(v, spec, "", intstr.FromInt32(g.Port))
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return w.a.node.DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		return err
	}
	defer conn.Close()
	service := ""
	if g.Service != nil {
		service = *g.Service
	}
	resp, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{Service: service})
	if err != nil {
		return err
	}
	if resp.Status != healthv1.HealthCheckResponse_SERVING {
		return fmt.Errorf("service unhealthy (responded with %q)", resp.Status)
	}
	return nil
}

// address is where a probe or hook goes: the Pod, unless it names a host.
func address(v *view, spec *corev1.Container, host string, port intstr.IntOrString) (string, error) {
	if host == "" {
		if len(v.ips) == 0 {
			return "", errors.New("the pod has no address")
		}
		host = v.ips[0].String()
	}
	n := port.IntValue()
	if port.Type == intstr.String {
		for _, p := range spec.Ports {
			if p.Name == port.StrVal {
				n = int(p.ContainerPort)
			}
		}
	}
	if n < 1 || n > 65535 {
		return "", fmt.Errorf("invalid port: %s", port.String())
	}
	return net.JoinHostPort(host, strconv.Itoa(n)), nil
}

// httpGet asks and gives the status code.
func (w *worker) httpGet(ctx context.Context, v *view, spec *corev1.Container, g *corev1.HTTPGetAction, agent string) (int, error) {
	addr, err := address(v, spec, g.Host, g.Port)
	if err != nil {
		return 0, err
	}
	scheme := "http"
	if g.Scheme == corev1.URISchemeHTTPS {
		scheme = "https"
	}
	u, err := url.Parse(g.Path)
	if err != nil {
		u = &url.URL{Path: g.Path}
	}
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	u.Scheme, u.Host = scheme, addr
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("User-Agent", agent)
	req.Header.Set("Accept", "*/*")
	for _, h := range g.HTTPHeaders {
		if strings.EqualFold(h.Name, "Host") {
			req.Host = h.Value
			continue
		}
		req.Header.Add(h.Name, h.Value)
	}
	client := &http.Client{
		Transport: &http.Transport{
			DialContext: w.a.node.DialContext, DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // a probe asks for health, not identity
		},
		// A redirect to another host is an answer of this one.
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			if next.URL.Hostname() != via[0].URL.Hostname() || len(via) >= 10 {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 10<<10))
	return resp.StatusCode, nil
}

// capture runs a program in a container and gives the beginning of what it says.
func capture(ctx context.Context, sandbox runtime.Pod, id string, args []string) (string, int, error) {
	r, out, err := os.Pipe()
	if err != nil {
		return "", 0, err
	}
	said := make(chan string, 1)
	go func() {
		var b bytes.Buffer
		io.Copy(&b, io.LimitReader(r, 10<<10))
		io.Copy(io.Discard, r)
		said <- b.String()
	}()
	code, err := sandbox.Exec(ctx, id, runtime.ExecConfig{Args: args, Streams: runtime.Streams{Stdout: out, Stderr: out}})
	out.Close()
	// A program that it left behind may hold the pipe open.
	select {
	case text := <-said:
		r.Close()
		return text, code, err
	case <-ctx.Done():
		r.Close()
		return <-said, code, err
	}
}

// hook runs a lifecycle handler.
func (w *worker) hook(ctx context.Context, v *view, spec *corev1.Container, id string, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		out, code, err := capture(ctx, v.sandbox, id, h.Exec.Command)
		if err == nil && code != 0 {
			err = fmt.Errorf("command %q exited with %d: %s", strings.Join(h.Exec.Command, " "), code, out)
		}
		return err
	case h.HTTPGet != nil:
		_, err := w.httpGet(ctx, v, spec, h.HTTPGet, "kube-lifecycle/1.37")
		return err
	case h.Sleep != nil:
		return pause(ctx, time.Duration(h.Sleep.Seconds)*time.Second)
	case h.TCPSocket != nil:
		return nil // accepted by the API and never run, as upstream
	}
	return errors.New("invalid handler")
}
