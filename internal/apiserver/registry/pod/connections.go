package pod

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/proxy"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericrest "k8s.io/apiserver/pkg/registry/generic/rest"
	"k8s.io/apiserver/pkg/registry/rest"
	streamtranslator "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/client-go/kubernetes"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"viaduct.dev/viaduct/internal/apiserver/registry"
)

// agentPort is where an agent offers the kubelet's API when its Node does not
// say otherwise.
const agentPort = 10250

// connections passes requests into Pods on to the agents of their nodes.
type connections struct {
	pods      *registry.Store[*corev1.Pod]
	client    func() (kubernetes.Interface, error)
	transport *http.Transport
}

func addConnections(env *registry.Env, r *registry.Resources, pods *registry.Store[*corev1.Pod]) error {
	client := sync.OnceValues(func() (kubernetes.Interface, error) { return registry.Client(env.Loopback) })
	c := &connections{pods: pods, client: client, transport: &http.Transport{
		TLSClientConfig:     env.AgentTLS,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		IdleConnTimeout:     30 * time.Second,
	}}
	for path, storage := range map[string]rest.Storage{
		"pods/log": &logREST{c},
		"pods/exec": &connectREST[*corev1.PodExecOptions]{c, func() *corev1.PodExecOptions { return &corev1.PodExecOptions{} }, execLocation,
			func(h http.Handler, l *url.URL, t http.RoundTripper, o *corev1.PodExecOptions) http.Handler {
				return translateStreams(h, l, t, streamtranslator.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY})
			}},
		"pods/attach": &connectREST[*corev1.PodAttachOptions]{c, func() *corev1.PodAttachOptions { return &corev1.PodAttachOptions{} }, attachLocation,
			func(h http.Handler, l *url.URL, t http.RoundTripper, o *corev1.PodAttachOptions) http.Handler {
				return translateStreams(h, l, t, streamtranslator.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY})
			}},
		"pods/portforward": &connectREST[*corev1.PodPortForwardOptions]{c, func() *corev1.PodPortForwardOptions { return &corev1.PodPortForwardOptions{} }, portForwardLocation, translateTunnel},
	} {
		if err := r.Add(corev1.SchemeGroupVersion, path, storage); err != nil {
			return err
		}
	}
	return nil
}

// find gives the Pod that a request is about.
func (c *connections) find(ctx context.Context, name string) (*corev1.Pod, error) {
	namespace, _ := genericapirequest.NamespaceFrom(ctx)
	return c.pods.ReadLatest(ctx, namespace, name)
}

// agent is the address of the agent that runs the Pod.
func (c *connections) agent(ctx context.Context, p *corev1.Pod) (string, error) {
	if p.Spec.NodeName == "" {
		return "", apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", p.Name))
	}
	client, err := c.client()
	if err != nil {
		return "", apierrors.NewInternalError(err)
	}
	node, err := client.CoreV1().Nodes().Get(ctx, p.Spec.NodeName, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil {
		return "", err
	}
	port := agentPort
	if n := node.Status.DaemonEndpoints.KubeletEndpoint.Port; n != 0 {
		port = int(n)
	}
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return net.JoinHostPort(a.Address, strconv.Itoa(port)), nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("node %s has no internal IP", node.Name))
}

// containerOf chooses the container that is meant, or says which there are.
func containerOf(p *corev1.Pod, name string) (string, error) {
	var names, init []string
	for _, c := range p.Spec.Containers {
		names = append(names, c.Name)
	}
	for _, c := range p.Spec.InitContainers {
		init = append(init, c.Name)
	}
	if name == "" {
		switch {
		case len(names) == 1:
			return names[0], nil
		case len(init) > 0:
			return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s] or one of the init containers: [%s]",
				p.Name, strings.Join(names, " "), strings.Join(init, " ")))
		}
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", p.Name, strings.Join(names, " ")))
	}
	for _, n := range append(names, init...) {
		if n == name {
			return name, nil
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, p.Name))
}

// logREST serves what a container has written.
type logREST struct{ *connections }

var _ rest.GetterWithOptions = (*logREST)(nil)

func (r *logREST) New() runtime.Object { return &corev1.Pod{} }

// Destroy leaves the storage to the store that shares it.
func (r *logREST) Destroy() {}

// NewGetOptions implements rest.GetterWithOptions.
func (r *logREST) NewGetOptions() (runtime.Object, bool, string) {
	return &corev1.PodLogOptions{}, false, ""
}

// ProducesMIMETypes implements rest.StorageMetadata.
func (r *logREST) ProducesMIMETypes(string) []string { return []string{"text/plain"} }

// ProducesObject implements rest.StorageMetadata.
func (r *logREST) ProducesObject(string) any { return "" }

// OverrideMetricsVerb tells a log that is followed from one that is read.
func (r *logREST) OverrideMetricsVerb(verb string) string {
	if verb == "GET" {
		return "CONNECT"
	}
	return verb
}

// Get streams the log from the Pod's agent.
func (r *logREST) Get(ctx context.Context, name string, options runtime.Object) (runtime.Object, error) {
	o, ok := options.(*corev1.PodLogOptions)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid options object: %T", options))
	}
	if o.SinceSeconds != nil && o.SinceTime != nil {
		return nil, apierrors.NewBadRequest("at most one of `sinceTime` or `sinceSeconds` may be specified")
	}
	p, err := r.find(ctx, name)
	if err != nil {
		return nil, err
	}
	container, err := containerOf(p, o.Container)
	if err != nil {
		return nil, err
	}
	if p.Spec.NodeName == "" { // nothing has been written yet
		return &genericrest.LocationStreamer{}, nil
	}
	host, err := r.agent(ctx, p)
	if err != nil {
		return nil, err
	}
	q := url.Values{}
	if o.Follow {
		q.Set("follow", "true")
	}
	if o.Previous {
		q.Set("previous", "true")
	}
	if o.Timestamps {
		q.Set("timestamps", "true")
	}
	if o.SinceSeconds != nil {
		q.Set("sinceSeconds", strconv.FormatInt(*o.SinceSeconds, 10))
	}
	if o.SinceTime != nil {
		q.Set("sinceTime", o.SinceTime.Format(time.RFC3339))
	}
	if o.TailLines != nil {
		q.Set("tailLines", strconv.FormatInt(*o.TailLines, 10))
	}
	if o.LimitBytes != nil {
		q.Set("limitBytes", strconv.FormatInt(*o.LimitBytes, 10))
	}
	return &genericrest.LocationStreamer{
		Location: &url.URL{
			Scheme: "https", Host: host, RawQuery: q.Encode(),
			Path: fmt.Sprintf("/containerLogs/%s/%s/%s", p.Namespace, p.Name, container),
		},
		Transport:       r.transport,
		ContentType:     "text/plain",
		Flush:           o.Follow,
		ResponseChecker: genericrest.NewGenericHttpResponseChecker(corev1.Resource("pods/log"), name),
		RedirectChecker: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// connectREST upgrades a connection and passes it on.
type connectREST[O runtime.Object] struct {
	*connections
	options  func() O
	location func(p *corev1.Pod, options O) (path string, query url.Values, err error)
	// translate turns WebSocket connections into SPDY, which agents speak.
	translate func(h http.Handler, location *url.URL, transport http.RoundTripper, options O) http.Handler
}

var _ rest.Connecter = (*connectREST[*corev1.PodExecOptions])(nil)

func (r *connectREST[O]) New() runtime.Object { return r.options() }

// Destroy leaves the storage to the store that shares it.
func (r *connectREST[O]) Destroy() {}

// NewConnectOptions implements rest.Connecter.
func (r *connectREST[O]) NewConnectOptions() (runtime.Object, bool, string) {
	return r.options(), false, ""
}

// ConnectMethods are GET, which a WebSocket starts with, and POST, of SPDY.
func (r *connectREST[O]) ConnectMethods() []string { return []string{"GET", "POST"} }

// Connect gives the handler that carries the connection.
func (r *connectREST[O]) Connect(ctx context.Context, name string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := options.(O)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid options object: %T", options))
	}
	p, err := r.find(ctx, name)
	if err != nil {
		return nil, err
	}
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("cannot exec into a container in a completed pod; current phase is %s", p.Status.Phase))
	}
	path, query, err := r.location(p, o)
	if err != nil {
		return nil, err
	}
	host, err := r.agent(ctx, p)
	if err != nil {
		return nil, err
	}
	location := &url.URL{Scheme: "https", Host: host, Path: path, RawQuery: query.Encode()}
	handler := proxy.NewUpgradeAwareHandler(location, r.transport, false, true, proxy.NewErrorResponder(responder))
	return r.translate(handler, location, r.transport, o), nil
}

// translateStreams is for exec and attach: each stream of the WebSocket's
// protocol v5 becomes one of SPDY's.
func translateStreams(h http.Handler, location *url.URL, transport http.RoundTripper, streams streamtranslator.Options) http.Handler {
	translator := streamtranslator.NewStreamTranslatorHandler(location, transport, 0, streams)
	return streamtranslator.NewTranslatingHandler(h, translator, wsstream.IsWebSocketRequestWithStreamCloseProtocol)
}

// translateTunnel is for portforward: SPDY travels inside the WebSocket.
func translateTunnel(h http.Handler, _ *url.URL, _ http.RoundTripper, _ *corev1.PodPortForwardOptions) http.Handler {
	return streamtranslator.NewTranslatingHandler(h, streamtranslator.NewTunnelingHandler(h), wsstream.IsWebSocketRequestWithTunnelingProtocol)
}

func execLocation(p *corev1.Pod, o *corev1.PodExecOptions) (string, url.Values, error) {
	container, err := containerOf(p, o.Container)
	if err != nil {
		return "", nil, err
	}
	q := streams(o.Stdin, o.Stdout, o.Stderr, o.TTY)
	for _, c := range o.Command {
		q.Add("command", c)
	}
	return fmt.Sprintf("/exec/%s/%s/%s", p.Namespace, p.Name, container), q, nil
}

func attachLocation(p *corev1.Pod, o *corev1.PodAttachOptions) (string, url.Values, error) {
	container, err := containerOf(p, o.Container)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/attach/%s/%s/%s", p.Namespace, p.Name, container), streams(o.Stdin, o.Stdout, o.Stderr, o.TTY), nil
}

func portForwardLocation(p *corev1.Pod, o *corev1.PodPortForwardOptions) (string, url.Values, error) {
	q := url.Values{}
	for _, port := range o.Ports {
		q.Add("port", strconv.Itoa(int(port)))
	}
	return fmt.Sprintf("/portForward/%s/%s", p.Namespace, p.Name), q, nil
}

// streams says in the kubelet's words which streams are wanted.
func streams(stdin, stdout, stderr, tty bool) url.Values {
	q := url.Values{}
	for name, wanted := range map[string]bool{
		corev1.ExecStdinParam: stdin, corev1.ExecStdoutParam: stdout, corev1.ExecStderrParam: stderr, corev1.ExecTTYParam: tty,
	} {
		if wanted {
			q.Set(name, "1")
		}
	}
	return q
}
