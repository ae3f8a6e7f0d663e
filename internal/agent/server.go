package agent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"viaduct.dev/viaduct/internal/agent/runtime"
)

// streamIdle is how long a stream may be silent.
const streamIdle = 4 * time.Hour

// listen opens the kubelet's API on every address of the node; what it gives
// back serves until its context ends.
func (a *agent) listen(ctx context.Context) (func(context.Context) error, error) {
	var listeners []net.Listener
	for _, ip := range a.NodeIPs {
		l, err := a.node.Listen(ctx, "tcp", net.JoinHostPort(ip.String(), strconv.Itoa(a.Port)))
		if err != nil {
			for _, open := range listeners {
				open.Close()
			}
			return nil, fmt.Errorf("serve the kubelet's API: %w", err)
		}
		listeners = append(listeners, tls.NewListener(l, &tls.Config{
			Certificates: []tls.Certificate{a.ServingCert}, ClientCAs: a.ClientCAs,
			// Streams over SPDY and WebSocket are upgrades of HTTP/1.1.
			ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		}))
	}
	server := &http.Server{
		Handler: a.handler(), ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:    log.New(io.Discard, "", 0), // a client that leaves is no news
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	return func(ctx context.Context) error {
		ended := make(chan error, len(listeners))
		for _, l := range listeners {
			go func() { ended <- server.Serve(l) }()
		}
		var err error
		waiting := len(listeners)
		select {
		case <-ctx.Done():
		case err = <-ended:
			waiting--
		}
		server.Close()
		for range waiting {
			<-ended
		}
		return err
	}, nil
}

func (a *agent) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	mux.HandleFunc("GET /pods", a.servePods)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", a.serveLogs)
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", a.serveExec)
	mux.HandleFunc("/exec/{namespace}/{pod}/{uid}/{container}", a.serveExec)
	mux.HandleFunc("/attach/{namespace}/{pod}/{container}", a.serveAttach)
	mux.HandleFunc("/attach/{namespace}/{pod}/{uid}/{container}", a.serveAttach)
	mux.HandleFunc("/portForward/{namespace}/{pod}", a.servePortForward)
	mux.HandleFunc("/portForward/{namespace}/{pod}/{uid}", a.servePortForward)
	return mux
}

func (a *agent) servePods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
	a.mu.Lock()
	for _, worker := range a.workers {
		list.Items = append(list.Items, *worker.view.Load().pod)
	}
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(list)
}

// podOf finds the Pod that a request names, or answers that there is none.
func (a *agent) podOf(w http.ResponseWriter, r *http.Request) *worker {
	namespace, name := r.PathValue("namespace"), r.PathValue("pod")
	worker := a.find(namespace, name)
	if worker == nil {
		http.Error(w, fmt.Sprintf("pod %q does not exist", name+"_"+namespace), http.StatusNotFound)
	}
	return worker
}

func (a *agent) serveLogs(w http.ResponseWriter, r *http.Request) {
	worker := a.podOf(w, r)
	if worker == nil {
		return
	}
	opts, err := logOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	name := r.PathValue("container")
	v := worker.view.Load()
	run, ok := v.runs[name]
	attempt := run.status.Attempt
	where := fmt.Sprintf("container %q in pod %q", name, v.pod.Name)
	switch {
	case !hasContainer(v.pod, name):
		http.Error(w, fmt.Sprintf("container %q in pod %q is not available", name, v.pod.Name), http.StatusBadRequest)
		return
	case opts.Previous && (!ok || attempt == 0):
		http.Error(w, fmt.Sprintf("previous terminated %s not found", where), http.StatusBadRequest)
		return
	case !ok:
		http.Error(w, fmt.Sprintf("%s is waiting to start: %s", where, waitingReason(v.pod, name)), http.StatusBadRequest)
		return
	}
	ended := run.ended
	if opts.Previous {
		attempt, ended = attempt-1, closed()
	}
	w.Header().Set("Content-Type", "text/plain")
	flush := func() {
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
	}
	if err := writeLog(r.Context(), logPath(worker.dir, name, attempt), ended, opts, w, flush); err != nil && r.Context().Err() == nil {
		fmt.Fprintf(w, "failed to read the log: %v\n", err)
	}
}

func hasContainer(pod *corev1.Pod, name string) bool {
	for _, c := range append(append([]corev1.Container(nil), pod.Spec.Containers...), pod.Spec.InitContainers...) {
		if c.Name == name {
			return true
		}
	}
	return false
}

func waitingReason(pod *corev1.Pod, name string) string {
	for _, s := range append(append([]corev1.ContainerStatus(nil), pod.Status.ContainerStatuses...), pod.Status.InitContainerStatuses...) {
		if s.Name == name && s.State.Waiting != nil {
			if s.State.Waiting.Message != "" {
				return s.State.Waiting.Message
			}
			return s.State.Waiting.Reason
		}
	}
	return "ContainerCreating"
}

func logOptions(r *http.Request) (*corev1.PodLogOptions, error) {
	q := r.URL.Query()
	o := &corev1.PodLogOptions{}
	for name, field := range map[string]*bool{"follow": &o.Follow, "previous": &o.Previous, "timestamps": &o.Timestamps} {
		if text := q.Get(name); text != "" {
			v, err := strconv.ParseBool(text)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			*field = v
		}
	}
	for name, field := range map[string]**int64{"tailLines": &o.TailLines, "limitBytes": &o.LimitBytes, "sinceSeconds": &o.SinceSeconds} {
		if text := q.Get(name); text != "" {
			v, err := strconv.ParseInt(text, 10, 64)
			if err != nil || v < 0 {
				return nil, fmt.Errorf("%s: %q is no number of lines, bytes or seconds", name, text)
			}
			*field = &v
		}
	}
	if text := q.Get("sinceTime"); text != "" {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return nil, fmt.Errorf("sinceTime: %w", err)
		}
		o.SinceTime = &metav1.Time{Time: t}
	}
	if text := q.Get("stream"); text != "" {
		o.Stream = &text
	}
	return o, nil
}

func (a *agent) serveExec(w http.ResponseWriter, r *http.Request) {
	worker, name, opts := a.streamsOf(w, r)
	if worker == nil {
		return
	}
	remotecommand.ServeExec(w, r, streams{worker}, "", "", name, r.URL.Query()["command"], opts,
		streamIdle, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (a *agent) serveAttach(w http.ResponseWriter, r *http.Request) {
	worker, name, opts := a.streamsOf(w, r)
	if worker == nil {
		return
	}
	// The container goes on when the client has left, silently maybe.
	ctx, gone := context.WithCancel(r.Context())
	defer gone()
	remotecommand.ServeAttach(watchedResponse{w, gone}, r.WithContext(ctx), streams{worker}, "", "", name, opts,
		streamIdle, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

// streamsOf finds the running container that a request names and the streams
// that it asks for, or answers what is wrong with it.
func (a *agent) streamsOf(w http.ResponseWriter, r *http.Request) (*worker, string, *remotecommand.Options) {
	worker := a.podOf(w, r)
	if worker == nil {
		return nil, "", nil
	}
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return nil, "", nil
	}
	name := r.PathValue("container")
	if run, ok := worker.view.Load().runs[name]; !ok || run.status.State != runtime.StateRunning {
		http.Error(w, fmt.Sprintf("container not found (%q)", name), http.StatusNotFound)
		return nil, "", nil
	}
	return worker, name, opts
}

func (a *agent) servePortForward(w http.ResponseWriter, r *http.Request) {
	worker := a.podOf(w, r)
	if worker == nil {
		return
	}
	opts, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, r, streams{worker}, "", "", opts,
		streamIdle, remotecommand.DefaultStreamCreationTimeout, portforward.SupportedProtocols)
}
