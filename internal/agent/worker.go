package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"viaduct.dev/viaduct/internal/agent/runtime"
)

// worker owns one Pod on this node.
type worker struct {
	a     *agent
	ctx   context.Context // ends with the worker, or before it with the agent
	leave context.CancelFunc
	dir   string
	inbox chan func()    // run by the worker's goroutine, in order
	wg    sync.WaitGroup // what runs beside the worker
	view  atomic.Pointer[view]

	volumes sync.Mutex // held while a volume is written anew

	// What follows belongs to the worker's goroutine.
	pod  *corev1.Pod
	gone bool // the API has no such Pod any more

	sandbox         runtime.Pod
	ips             []netip.Addr
	making          bool // the sandbox is being made or taken down
	sandboxFailures int
	notBefore       time.Time // when to try again

	containers []*container // init containers first, in the Pod's order
	over       bool         // every container has ended for good, or the Pod was refused
	reason     string       // why it is over, if no container says it
	message    string
	ending     *ending
	finished   bool
	following  map[string]bool // objects that volumes are made from

	wake     time.Time // when to look again though nothing happened
	statuses chan corev1.PodStatus
	settled  corev1.PodStatus // what the API had when the worker began; times that stay
	// published is the newest status that was given to the writer, told the
	// newest that the API has.
	published, told *corev1.PodStatus
}

// view is what others may see of a Pod; it is replaced, never changed.
type view struct {
	pod     *corev1.Pod
	gone    bool
	sandbox runtime.Pod
	ips     []netip.Addr
	runs    map[string]runView // by the container's name
}

type runView struct {
	status runtime.ContainerStatus
	ended  <-chan struct{} // closed when this run has ended
}

func newWorker(ctx context.Context, a *agent, pod *corev1.Pod) *worker {
	ctx, leave := context.WithCancel(ctx)
	w := &worker{
		a: a, ctx: ctx, leave: leave, following: map[string]bool{}, dir: a.podDir(pod.UID), pod: pod,
		inbox: make(chan func(), 16), statuses: make(chan corev1.PodStatus, 1),
		settled: pod.Status,
	}
	for i := range pod.Spec.InitContainers {
		w.containers = append(w.containers, newContainer(w, &pod.Spec.InitContainers[i], true))
	}
	for i := range pod.Spec.Containers {
		w.containers = append(w.containers, newContainer(w, &pod.Spec.Containers[i], false))
	}
	w.show()
	return w
}

// post has f run by the worker's goroutine, unless that has ended.
func (w *worker) post(f func()) {
	select {
	case w.inbox <- f:
	case <-w.ctx.Done():
	}
}

// beside runs f on a goroutine of its own; what f returns is then run by the worker's.
func (w *worker) beside(f func() func()) {
	w.wg.Go(func() {
		if result := f(); result != nil {
			w.post(result)
		}
	})
}

// setPod brings the API's newest word of the Pod.
func (w *worker) setPod(pod *corev1.Pod, gone bool) {
	// The informer must not wait for a worker that is leaving.
	w.post(func() {
		if gone {
			w.gone = true
			return
		}
		w.pod = pod
	})
}

func (w *worker) run() {
	defer w.wg.Wait()
	defer w.leave()
	settled := w.settled
	w.wg.Go(func() { w.writeStatuses(settled) })
	if err := w.recover(); err != nil {
		if w.ctx.Err() == nil {
			w.a.Log.Error("the pod could not be found again", "pod", w.name(), "err", err)
		}
		// What cannot be found again is made anew.
		for _, c := range w.containers {
			c.lost()
		}
	}
	for !w.finished && w.ctx.Err() == nil {
		w.wake = time.Time{}
		w.step()
		w.show()
		w.publish()
		if w.finished {
			return
		}
		w.wait()
	}
}

// wait returns when something has happened; all that has is taken in at once.
func (w *worker) wait() {
	var timer <-chan time.Time
	if !w.wake.IsZero() {
		t := time.NewTimer(time.Until(w.wake))
		defer t.Stop()
		timer = t.C
	}
	select {
	case f := <-w.inbox:
		f()
	case <-timer:
	case <-w.ctx.Done():
		return
	}
	for {
		select {
		case f := <-w.inbox:
			f()
		default:
			return
		}
	}
}

// wakeAt has the worker look again at t at the latest.
func (w *worker) wakeAt(t time.Time) {
	if w.wake.IsZero() || t.Before(w.wake) {
		w.wake = t
	}
}

func (w *worker) name() string { return w.pod.Namespace + "/" + w.pod.Name }

func (w *worker) event(kind, reason, format string, args ...any) {
	w.a.events.Eventf(w.pod, kind, reason, format, args...)
}

func (w *worker) containerEvent(c *container, kind, reason, format string, args ...any) {
	field := "spec.containers{" + c.spec.Name + "}"
	if c.init {
		field = "spec.initContainers{" + c.spec.Name + "}"
	}
	w.a.events.Eventf(&corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: w.pod.Namespace, Name: w.pod.Name, UID: w.pod.UID,
		ResourceVersion: w.pod.ResourceVersion, FieldPath: field,
	}, kind, reason, format, args...)
}

// step looks at the Pod and starts what is next. It never waits.
func (w *worker) step() {
	if w.gone || w.pod.DeletionTimestamp != nil || w.ending != nil {
		w.stepEnding()
		return
	}
	if w.over {
		w.stepOver()
		return
	}
	if w.sandbox == nil {
		w.stepSandbox()
		return
	}
	for _, c := range w.containers {
		if !c.init {
			continue
		}
		done := w.stepInit(c)
		if w.over {
			w.stepOver()
			return
		}
		if !done {
			return
		}
	}
	running := false
	for _, c := range w.containers {
		if c.init {
			if c.sidecar() {
				w.keepRunning(c)
			}
			continue
		}
		if !w.finishedForGood(c) {
			running = true
			w.keepRunning(c)
		}
	}
	if !running {
		w.over = true
		w.stepOver()
	}
}

// stepInit brings an init container forward and says whether the next may begin.
func (w *worker) stepInit(c *container) bool {
	if c.sidecar() {
		w.keepRunning(c)
		return c.started || c.everStarted
	}
	// Init containers do not run again once a container of the Pod has.
	if w.initialized() {
		return true
	}
	if c.run != nil && c.run.State == runtime.StateExited {
		if c.run.ExitCode == 0 {
			return true
		}
		if w.pod.Spec.RestartPolicy == corev1.RestartPolicyNever {
			w.over = true
			return false
		}
	}
	w.keepRunning(c)
	return false
}

// initialized says whether an ordinary container has run already.
func (w *worker) initialized() bool {
	for _, c := range w.containers {
		if !c.init && (c.run != nil || c.last != nil) {
			return true
		}
	}
	return false
}

// finishedForGood says whether an ordinary container will not run again.
func (w *worker) finishedForGood(c *container) bool {
	if c.run == nil || c.run.State != runtime.StateExited || c.busy {
		return false
	}
	switch w.pod.Spec.RestartPolicy {
	case corev1.RestartPolicyNever:
		return true
	case corev1.RestartPolicyOnFailure:
		return c.run.ExitCode == 0
	}
	return false
}

// stepSandbox makes what holds the Pod.
func (w *worker) stepSandbox() {
	if w.making {
		return
	}
	if time.Now().Before(w.notBefore) {
		w.wakeAt(w.notBefore)
		return
	}
	w.making = true
	pod := w.pod
	w.beside(func() func() {
		sandbox, ips, err := w.makeSandbox(pod)
		return func() {
			w.making = false
			if err != nil {
				w.sandboxFailures++
				w.notBefore = time.Now().Add(retryAfter(w.sandboxFailures))
				reason := "FailedCreatePodSandBox"
				if errors.As(err, new(volumeError)) {
					reason = "FailedMount"
				}
				if w.ctx.Err() == nil {
					w.event(corev1.EventTypeWarning, reason, "%s", capitalize(err.Error()))
				}
				return
			}
			w.sandboxFailures = 0
			w.adoptSandbox(sandbox, ips)
			w.warnOfHostPorts()
		}
	})
}

func (w *worker) makeSandbox(pod *corev1.Pod) (runtime.Pod, []netip.Addr, error) {
	if err := os.MkdirAll(w.dir, 0o711); err != nil {
		return nil, nil, fmt.Errorf("failed to create pod sandbox: %w", err)
	}
	if err := w.a.prepareVolumes(w.ctx, pod, w.dir); err != nil {
		return nil, nil, err
	}
	// Whatever an earlier attempt left.
	if err := w.a.Runtime.CleanUp(w.ctx, w.dir); err != nil {
		return nil, nil, fmt.Errorf("failed to create pod sandbox: %w", err)
	}
	cfg, err := w.a.podConfig(pod)
	if err != nil {
		return nil, nil, fmt.Errorf("failed to create pod sandbox: %w", err)
	}
	sandbox, err := w.a.Runtime.CreatePod(w.ctx, cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("failed to create pod sandbox: %w", err)
	}
	ips := w.a.NodeIPs
	if !pod.Spec.HostNetwork {
		ips, err = w.a.network.Attach(w.dir, string(pod.UID), sandbox.NetNS())
	}
	if err == nil {
		err = w.a.writePodFiles(pod, cfg.Hostname, w.dir, ips)
	}
	if err != nil {
		stop, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), 10*time.Second)
		defer cancel()
		return nil, nil, errors.Join(fmt.Errorf("failed to create pod sandbox: %w", err), sandbox.Stop(stop))
	}
	return sandbox, ips, nil
}

// adoptSandbox takes a living Pod over and listens to it.
func (w *worker) adoptSandbox(sandbox runtime.Pod, ips []netip.Addr) {
	w.sandbox, w.ips = sandbox, ips
	w.wg.Go(func() {
		for {
			select {
			case status, ok := <-sandbox.Events():
				if !ok {
					w.post(func() { w.sandboxGone(sandbox) })
					return
				}
				w.post(func() { w.observe(status) })
			case <-w.ctx.Done():
				return
			}
		}
	})
	w.followVolumes(w.pod)
}

// sandboxGone is called when what held the Pod has died.
func (w *worker) sandboxGone(sandbox runtime.Pod) {
	if w.sandbox != sandbox {
		return
	}
	w.sandbox = nil
	for _, c := range w.containers {
		c.lost()
	}
	if w.ending == nil && !w.over {
		w.event(corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
}

// recover finds what an earlier agent left of the Pod.
func (w *worker) recover() error {
	if w.pod.Status.Phase == corev1.PodSucceeded || w.pod.Status.Phase == corev1.PodFailed {
		w.over, w.reason, w.message = true, w.pod.Status.Reason, w.pod.Status.Message
	}
	for _, c := range w.containers {
		c.recover(w.pod)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "runtime")); err != nil {
		for _, c := range w.containers {
			c.lost()
		}
		return nil
	}
	sandbox, err := w.a.Runtime.OpenPod(w.ctx, w.dir)
	if errors.Is(err, runtime.ErrPodGone) {
		for _, c := range w.containers {
			c.lost()
		}
		return w.a.Runtime.CleanUp(w.ctx, w.dir)
	}
	if err != nil {
		return err
	}
	statuses, err := sandbox.Containers(w.ctx)
	if err != nil {
		return err
	}
	ips := w.a.NodeIPs
	if !w.pod.Spec.HostNetwork {
		if ips, err = w.a.network.Attach(w.dir, string(w.pod.UID), sandbox.NetNS()); err != nil {
			return err
		}
	}
	if len(statuses) == 0 {
		// The one before may have died between the sandbox and its files.
		if err := w.a.writePodFiles(w.pod, sandbox.Config().Hostname, w.dir, ips); err != nil {
			return err
		}
	}
	// First the sandbox: the probes that found starts keep its addresses.
	w.adoptSandbox(sandbox, ips)
	for _, c := range w.containers {
		c.found(statuses)
	}
	return nil
}

// show replaces what others see.
func (w *worker) show() {
	v := &view{pod: w.pod, gone: w.gone, sandbox: w.sandbox, ips: w.ips, runs: map[string]runView{}}
	for _, c := range w.containers {
		if c.run != nil {
			v.runs[c.spec.Name] = runView{*c.run, c.ended}
		}
	}
	w.view.Store(v)
}

// teardown ends the sandbox and gives back what the Pod had. Its directory
// stays until the API has let go of the Pod: it holds the logs.
func (w *worker) teardown(sandbox runtime.Pod) error {
	if sandbox != nil {
		if err := sandbox.Stop(w.ctx); err != nil {
			return err
		}
	}
	return errors.Join(w.a.Runtime.CleanUp(w.ctx, w.dir), w.a.network.Detach(w.dir))
}

// deleteFromAPI lets the API forget the Pod.
func (w *worker) deleteFromAPI(pod *corev1.Pod) error {
	zero := int64(0)
	err := w.a.Client.CoreV1().Pods(pod.Namespace).Delete(w.ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &pod.UID},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
