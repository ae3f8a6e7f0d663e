package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"viaduct.dev/viaduct/internal/agent/podnet"
	"viaduct.dev/viaduct/internal/agent/runtime"
	"viaduct.dev/viaduct/internal/images"
	"viaduct.dev/viaduct/internal/lab"
)

// Images is where the images of containers are found.
type Images interface {
	// Lookup finds an image on this machine; images.ErrNotFound where there is none.
	Lookup(ref string) (images.Image, error)
	// Pull fetches it from its registry.
	Pull(ctx context.Context, ref string) (images.Image, error)
	// Changed gives a channel that holds one word whenever images have come
	// since it was read, until ctx ends.
	Changed(ctx context.Context) (<-chan struct{}, error)
}

// DefaultPort is where the kubelet's API is served.
const DefaultPort = 10250

// Config says what node this is. Fields without a comment on their zero value
// are required.
type Config struct {
	NodeName string
	NodeIPs  []netip.Addr
	// Node is the node's network namespace; nil means the process's own.
	Node *lab.Namespace

	Client kubernetes.Interface
	// Informers gives Services and Nodes.
	Informers informers.SharedInformerFactory
	Runtime   runtime.Runtime
	Images    Images

	// StateDir holds the node's Pods; it is made if it is not there.
	StateDir string
	// CgroupRoot is the cgroup of the node below each hierarchy's root, such as
	// /viaduct/<cluster>/<node>.
	CgroupRoot string

	ClusterDNS    []netip.Addr
	ClusterDomain string
	// ResolvConf is the node's own resolv.conf, for Pods with dnsPolicy Default;
	// empty means that the node has no resolver.
	ResolvConf string

	ServingCert tls.Certificate
	// ClientCAs sign the certificates of those who may ask for logs and exec.
	ClientCAs *x509.CertPool
	// Port of the kubelet's API; 0 means DefaultPort.
	Port int

	// Labels are set on the Node, such as topology.kubernetes.io/zone.
	Labels map[string]string
	// Capacity of the node; what is missing is found out.
	Capacity corev1.ResourceList
	// Version is the kubelet version that the Node states.
	Version string
	// MTU of the Pods' interfaces; 0 means podnet.DefaultMTU.
	MTU int

	Log *slog.Logger
}

// agent is what all workers of a node share.
type agent struct {
	Config
	node     *lab.Namespace
	network  *podnet.Network
	services corelisters.ServiceLister
	events   record.EventRecorder
	self     *corev1.Node // as an object of events
	capacity corev1.ResourceList

	cidrs   []netip.Prefix // the Pods' ranges that the node has had from the beginning
	removed chan struct{}  // holds one word when the Node was deleted

	mu      sync.Mutex // guards workers
	workers map[types.UID]*worker
	wg      sync.WaitGroup // the workers'
}

// Run runs the node until ctx ends. Containers go on without it.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Port == 0 {
		cfg.Port = DefaultPort
	}
	a := &agent{Config: cfg, node: cfg.Node, workers: map[types.UID]*worker{}, removed: make(chan struct{}, 1)}
	if a.node == nil {
		node, err := lab.Current()
		if err != nil {
			return fmt.Errorf("run node %s: %w", cfg.NodeName, err)
		}
		defer node.Close()
		a.node = node
	}
	if err := a.run(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("run node %s: %w", cfg.NodeName, err)
	}
	return nil
}

func (a *agent) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var roles sync.WaitGroup
	defer roles.Wait()
	defer cancel(nil)
	start := func(run func(context.Context) error) {
		roles.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}

	if err := os.MkdirAll(a.podsDir(), 0o711); err != nil {
		return err
	}
	broadcaster := record.NewBroadcaster()
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: a.Client.CoreV1().Events("")})
	a.events = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: a.NodeName})
	a.capacity = a.nodeCapacity()

	// The listener is open before the node is said to be ready.
	server, err := a.listen(ctx)
	if err != nil {
		return err
	}
	start(server)
	a.services = a.Informers.Core().V1().Services().Lister()
	servicesSynced := a.Informers.Core().V1().Services().Informer().HasSyncedChecker()
	nodes := a.Informers.Core().V1().Nodes()
	nodesSynced := nodes.Informer().HasSyncedChecker()
	a.Informers.Start(ctx.Done())

	cidrs, err := a.register(ctx)
	if err != nil {
		return err
	}
	a.cidrs = cidrs
	a.network, err = podnet.New(podnet.Config{
		Node: a.node, NodeIPs: a.NodeIPs, PodCIDRs: cidrs, Dir: a.StateDir, MTU: a.MTU,
	})
	if err != nil {
		return err
	}
	if !cache.WaitFor(ctx, "", servicesSynced, nodesSynced) {
		return ctx.Err()
	}
	defer a.wg.Wait()
	defer cancel(nil)
	if err := a.followNodes(ctx, nodes); err != nil {
		return err
	}
	if err := a.followPods(ctx); err != nil {
		return err
	}
	start(a.heartbeat)
	start(a.followImages)
	<-ctx.Done()
	return context.Cause(ctx)
}

func (a *agent) podsDir() string { return filepath.Join(a.StateDir, "pods") }

func (a *agent) podDir(uid types.UID) string { return filepath.Join(a.podsDir(), string(uid)) }

// followPods starts a worker for each Pod of this node, and for each that is
// left in the state directory though the API has it no more.
func (a *agent) followPods(ctx context.Context) error {
	left, err := os.ReadDir(a.podsDir())
	if err != nil {
		return err
	}
	for _, d := range left {
		a.network.Adopt(filepath.Join(a.podsDir(), d.Name()))
	}
	informer := newPodInformer(a.Client, a.NodeName)
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { a.dispatch(ctx, o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { a.dispatch(ctx, o.(*corev1.Pod)) },
		DeleteFunc: func(o any) {
			if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			if pod, ok := o.(*corev1.Pod); ok {
				a.dispatchGone(pod.UID)
			}
		},
	})
	if err != nil {
		return err
	}
	a.wg.Go(func() { informer.Run(ctx.Done()) })
	if !cache.WaitFor(ctx, "", informer.HasSyncedChecker()) {
		return ctx.Err()
	}
	known := map[string]bool{}
	for _, o := range informer.GetStore().List() {
		known[string(o.(*corev1.Pod).UID)] = true
	}
	for _, d := range left {
		if known[d.Name()] {
			continue
		}
		a.wg.Go(func() {
			if err := a.removeLeftover(ctx, filepath.Join(a.podsDir(), d.Name())); err != nil && ctx.Err() == nil {
				a.Log.Error("a deleted pod could not be removed", "uid", d.Name(), "err", err)
			}
		})
	}
	return nil
}

// dispatch gives a Pod's newest form to its worker.
func (a *agent) dispatch(ctx context.Context, pod *corev1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.workers[pod.UID]
	if w == nil {
		w = newWorker(ctx, a, pod)
		a.workers[pod.UID] = w
		a.wg.Go(func() {
			w.run()
			a.mu.Lock()
			defer a.mu.Unlock()
			delete(a.workers, pod.UID)
		})
		return
	}
	w.setPod(pod, false)
}

func (a *agent) dispatchGone(uid types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.workers[uid]; w != nil {
		w.setPod(nil, true)
	}
}

// find gives the worker of a Pod by name.
func (a *agent) find(namespace, name string) *worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.workers {
		if v := w.view.Load(); v.pod.Namespace == namespace && v.pod.Name == name && !v.gone {
			return w
		}
	}
	return nil
}

// followImages lets containers that wait for an image start when it has come.
func (a *agent) followImages(ctx context.Context) error {
	changed, err := a.Images.Changed(ctx)
	if err != nil {
		// They look by themselves too, now and then.
		a.Log.Warn("it is not known when images come", "err", err)
		return nil
	}
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
		a.mu.Lock()
		all := slices.Collect(maps.Values(a.workers))
		a.mu.Unlock()
		for _, w := range all {
			w.post(w.lookForImages)
		}
	}
}

// removeLeftover ends a Pod that was deleted while no agent ran.
func (a *agent) removeLeftover(ctx context.Context, dir string) error {
	pod, err := a.Runtime.OpenPod(ctx, dir)
	if err == nil {
		err = pod.Stop(ctx)
	} else if errors.Is(err, runtime.ErrPodGone) {
		err = nil
	}
	if err == nil {
		err = a.Runtime.CleanUp(ctx, dir)
	}
	if err == nil {
		err = a.network.Detach(dir)
	}
	if err == nil {
		err = removeVolumes(dir)
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// retryAfter is the pause before what failed is tried again.
func retryAfter(failures int) time.Duration {
	return min(100*time.Millisecond<<min(failures, 8), 10*time.Second)
}
