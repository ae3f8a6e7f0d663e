package agent

import (
	"context"
	"os"
	"reflect"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"viaduct.dev/viaduct/internal/agent/runtime"
)

// ending is a Pod's way out:
//
//	preStop hooks -> SIGTERM -> grace -> SIGKILL      ordinary containers first, then sidecars
//	sandbox down, address given back
//	final status -> delete from the API -> directory removed
type ending struct {
	deadline  time.Time
	apps      bool // ordinary containers have been told to end
	sidecars  bool
	down      bool // nothing of the Pod runs any more
	deleting  bool
	deleted   bool
	notBefore time.Time
	failures  int
}

// stepEnding brings a Pod that was deleted nearer to its end.
func (w *worker) stepEnding() {
	if w.ending == nil {
		w.ending = &ending{}
		for _, c := range w.containers {
			c.stopProbes(true)
		}
	}
	e := w.ending
	if deadline := w.deadline(); e.deadline.IsZero() || deadline.Before(e.deadline) {
		e.deadline = deadline
	}
	if !e.down {
		if w.making || !w.stopContainers() {
			return
		}
		w.takeDown(func() { e.down = true })
		return
	}
	if w.gone {
		w.removeDirectory()
		return
	}
	if e.deleted || e.deleting || w.told == nil || !reflect.DeepEqual(*w.told, w.status()) {
		return // the writer says when the last status was told; the watch, when the Pod is gone
	}
	if time.Now().Before(e.notBefore) {
		w.wakeAt(e.notBefore)
		return
	}
	e.deleting = true
	pod := w.pod
	w.beside(func() func() {
		err := w.deleteFromAPI(pod)
		return func() {
			e.deleting = false
			if err != nil {
				e.failures++
				e.notBefore = time.Now().Add(retryAfter(e.failures))
				return
			}
			e.deleted = true
		}
	})
}

// deadline is when the Pod's containers are killed.
func (w *worker) deadline() time.Time {
	grace, since := int64(30), time.Now()
	if s := w.pod.Spec.TerminationGracePeriodSeconds; s != nil {
		grace = *s
	}
	if s := w.pod.DeletionGracePeriodSeconds; s != nil {
		grace = *s
	}
	if w.gone {
		grace = 0 // deleted by force
	}
	return since.Add(time.Duration(max(grace, 1)) * time.Second)
}

// stopContainers has every container end and says whether all have.
func (w *worker) stopContainers() bool {
	e := w.ending
	left := func(sidecars bool) int {
		n := 0
		for _, c := range w.containers {
			if c.sidecar() != sidecars {
				continue
			}
			if c.cancelStart != nil {
				c.cancelStart()
			}
			if c.busy || c.running() {
				n++
				if c.running() {
					w.stop(c, e.deadline, "Stopping container "+c.spec.Name)
				}
			}
		}
		return n
	}
	if left(false) > 0 {
		return false
	}
	return left(true) == 0
}

// stepOver takes a Pod down that has run to its end.
func (w *worker) stepOver() {
	if w.making || w.sandbox == nil {
		return
	}
	for _, c := range w.containers {
		if c.busy {
			return
		}
	}
	running := false
	for _, c := range w.containers {
		if c.running() {
			running = true
			w.stop(c, w.deadline(), "Stopping container "+c.spec.Name)
		}
	}
	if !running {
		w.takeDown(func() {})
	}
}

// takeDown ends the sandbox beside the worker; then is called when it is down.
func (w *worker) takeDown(then func()) {
	if w.making {
		return
	}
	if time.Now().Before(w.notBefore) {
		w.wakeAt(w.notBefore)
		return
	}
	w.making = true
	sandbox := w.sandbox
	w.sandbox = nil
	w.beside(func() func() {
		err := w.teardown(sandbox)
		return func() {
			w.making = false
			if err != nil {
				w.sandboxFailures++
				w.notBefore = time.Now().Add(retryAfter(w.sandboxFailures))
				w.sandbox = sandbox
				w.event(corev1.EventTypeWarning, "FailedKillPod", "error killing pod: %v", err)
				return
			}
			then()
		}
	})
}

func (w *worker) removeDirectory() {
	if w.making {
		return
	}
	if time.Now().Before(w.notBefore) {
		w.wakeAt(w.notBefore)
		return
	}
	err := removeVolumes(w.dir)
	if err == nil {
		err = os.RemoveAll(w.dir)
	}
	if err != nil {
		w.sandboxFailures++
		w.notBefore = time.Now().Add(retryAfter(w.sandboxFailures))
		w.wakeAt(w.notBefore)
		w.a.Log.Error("a pod's directory could not be removed", "pod", w.name(), "err", err)
		return
	}
	w.finished = true
}

// stop ends a running container: its preStop hook, its stop signal and, when
// the deadline has passed, SIGKILL. Its end arrives as an event.
func (w *worker) stop(c *container, deadline time.Time, why string) {
	if c.stopping != nil {
		c.stopping(deadline) // an earlier deadline wins
		return
	}
	w.containerEvent(c, corev1.EventTypeNormal, "Killing", "%s", why)
	ctx, cancel := context.WithCancel(w.ctx)
	timer := time.AfterFunc(time.Until(deadline), cancel)
	at := deadline
	c.stopping = func(t time.Time) {
		if t.Before(at) {
			at = t
			timer.Reset(time.Until(t))
		}
	}
	c.stopProbes(true)
	sandbox, spec, run, ended, pod := w.sandbox, c.spec, *c.run, c.ended, w.pod
	signal := stopSignal(c.image, c.spec)
	var view = w.view.Load()
	w.beside(func() func() {
		defer cancel()
		if spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil {
			if err := w.hook(ctx, view, spec, run.ID, spec.Lifecycle.PreStop); err != nil && w.ctx.Err() == nil {
				w.a.events.Eventf(pod, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
			}
		}
		if ctx.Err() == nil {
			if err := sandbox.Signal(ctx, run.ID, signal); err != nil && ctx.Err() == nil {
				w.a.Log.Warn("a container could not be told to end", "pod", pod.Namespace+"/"+pod.Name, "container", spec.Name, "err", err)
			}
		}
		select {
		case <-ended:
			return nil
		case <-ctx.Done():
		}
		if w.ctx.Err() == nil {
			kill(w.ctx, sandbox, run.ID)
		}
		return nil
	})
}

// kill is tried until it is said, or the Pod is gone.
func kill(ctx context.Context, sandbox runtime.Pod, id string) {
	for failures := 0; ; failures++ {
		err := sandbox.Signal(ctx, id, syscall.SIGKILL)
		if err == nil || err == runtime.ErrPodGone || err == runtime.ErrContainerNotFound {
			return
		}
		if pause(ctx, retryAfter(failures)) != nil {
			return
		}
	}
}
