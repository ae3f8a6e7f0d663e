package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"viaduct.dev/viaduct/internal/agent/runtime"
	"viaduct.dev/viaduct/internal/images"
)

// Back-off of containers that end again and again, and of images that cannot be
// had: ten seconds, doubled up to five minutes, forgotten after ten.
const (
	firstBackOff = 10 * time.Second
	maxBackOff   = 5 * time.Minute
)

// backOff is the growing pause before something is tried again.
type backOff struct {
	pause time.Duration
	grown time.Time // when it last grew
}

// until is when the next try may be, counted from the last one's end.
func (b *backOff) until(ended time.Time) time.Time {
	if b.pause == 0 || ended.Sub(b.grown) > 2*maxBackOff {
		return time.Time{}
	}
	return ended.Add(b.pause)
}

// grow is called at each try.
func (b *backOff) grow(ended, now time.Time) {
	if b.pause == 0 || ended.Sub(b.grown) > 2*maxBackOff {
		b.pause = firstBackOff
	} else {
		b.pause = min(2*b.pause, maxBackOff)
	}
	b.grown = now
}

// container is one container of a Pod. It belongs to the worker's goroutine.
type container struct {
	w    *worker
	spec *corev1.Container
	init bool

	image  images.Image
	refID  string                   // the image's ID as the status states it
	run    *runtime.ContainerStatus // the newest run
	last   *corev1.ContainerStateTerminated
	ending *corev1.ContainerStateTerminated // what the newest run's end was
	ended  chan struct{}                    // closed when the newest run has ended
	next   int                              // the attempt of the next run

	busy            bool // a start is under way
	cancelStart     context.CancelFunc
	stopping        func(deadline time.Time) // set while it is being stopped
	reason, message string                   // why it waits
	restart, pull   backOff
	pullFailed      time.Time
	retry           time.Time // after a failure that is no exit

	ready, started, everStarted bool
	probes, lasting             context.CancelFunc // of all probes, and of those that last until the end
}

func newContainer(w *worker, spec *corev1.Container, init bool) *container {
	return &container{w: w, spec: spec, init: init, reason: "ContainerCreating"}
}

// sidecar says whether it is an init container that runs as long as the Pod.
func (c *container) sidecar() bool {
	return c.init && c.spec.RestartPolicy != nil && *c.spec.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func (c *container) running() bool { return c.run != nil && c.run.State == runtime.StateRunning }

func (c *container) id(attempt int) string { return c.spec.Name + "-" + strconv.Itoa(attempt) }

// logPath is where a run's log is, below the Pod's directory.
func logPath(dir, name string, attempt int) string {
	return filepath.Join(dir, "logs", name, strconv.Itoa(attempt)+".log")
}

func (c *container) terminationPath(attempt int) string {
	return filepath.Join(c.w.dir, "termination", c.id(attempt))
}

// recover takes over what the Pod's status says.
func (c *container) recover(pod *corev1.Pod) {
	statuses := pod.Status.ContainerStatuses
	if c.init {
		statuses = pod.Status.InitContainerStatuses
	}
	for _, s := range statuses {
		if s.Name != c.spec.Name {
			continue
		}
		c.last, c.refID = s.LastTerminationState.Terminated, s.ImageID
		c.image.ID, c.image.Name = s.ImageID, s.Image
		c.ready, c.started = s.Ready, s.Started != nil && *s.Started
		attempt := int(s.RestartCount)
		switch {
		case s.State.Running != nil:
			c.run = &runtime.ContainerStatus{
				ID: c.id(attempt), Name: c.spec.Name, Attempt: attempt, State: runtime.StateRunning, StartedAt: s.State.Running.StartedAt.Time,
			}
			c.ended, c.next = make(chan struct{}), attempt+1
		case s.State.Terminated != nil:
			t := s.State.Terminated
			c.run = &runtime.ContainerStatus{
				ID: c.id(attempt), Name: c.spec.Name, Attempt: attempt, State: runtime.StateExited, ExitCode: int(t.ExitCode),
				Signal: int(t.Signal), StartedAt: t.StartedAt.Time, FinishedAt: t.FinishedAt.Time,
			}
			c.ending, c.ended, c.next = t, closed(), attempt+1
		case c.last != nil:
			// It waits for its next run; the one that ended is the newest.
			c.run = &runtime.ContainerStatus{
				ID: c.id(attempt), Name: c.spec.Name, Attempt: attempt, State: runtime.StateExited, ExitCode: int(c.last.ExitCode),
				Signal: int(c.last.Signal), StartedAt: c.last.StartedAt.Time, FinishedAt: c.last.FinishedAt.Time,
			}
			c.ending, c.ended, c.next = c.last, closed(), attempt+1
		}
	}
}

// found takes over the runs that the runtime still knows.
func (c *container) found(all []runtime.ContainerStatus) {
	known := false
	for _, s := range all {
		if s.Name != c.spec.Name || c.run != nil && s.Attempt < c.run.Attempt {
			continue
		}
		known = true
		if c.run != nil && s.Attempt > c.run.Attempt && c.ending != nil {
			c.last = c.ending
		}
		same := c.run != nil && s.Attempt == c.run.Attempt
		if !same {
			c.ready, c.started = false, false
		}
		c.begin(s)
		if s.State == runtime.StateExited {
			c.end(s)
		} else {
			c.w.startProbes(c, same)
		}
	}
	if !known {
		c.lost()
	}
	if c.image.ID == "" {
		if img, err := c.w.a.Images.Lookup(c.spec.Image); err == nil {
			c.image = img
		}
	}
}

// begin notes a new run.
func (c *container) begin(s runtime.ContainerStatus) {
	c.run, c.ending, c.ended, c.stopping = &s, nil, make(chan struct{}), nil
	c.next = s.Attempt + 1
	c.reason, c.message = "", ""
	c.everStarted = c.everStarted || c.started
}

// again notes a new run after those before it.
func (c *container) again(s runtime.ContainerStatus) {
	if c.run != nil {
		c.last = c.ending
		c.restart.grow(c.run.FinishedAt, time.Now())
	}
	c.begin(s)
}

// end notes the end of the newest run.
func (c *container) end(s runtime.ContainerStatus) {
	c.stopProbes(false)
	c.run, c.stopping, c.ready, c.started = &s, nil, false, false
	t := &corev1.ContainerStateTerminated{
		ExitCode: int32(s.ExitCode), Signal: int32(s.Signal), Reason: "Completed",
		StartedAt: metaTime(s.StartedAt), FinishedAt: metaTime(s.FinishedAt), ContainerID: c.w.containerID(s.ID),
	}
	if s.ExitCode != 0 {
		t.Reason = "Error"
	}
	if s.OOMKilled {
		t.Reason = "OOMKilled"
	}
	t.Message = c.lastWords(s)
	c.ending = t
	closeOnce(c.ended)
}

// lost notes that the newest run ended unseen, because what held it is gone.
func (c *container) lost() {
	if !c.running() {
		return
	}
	s := *c.run
	s.State, s.ExitCode, s.FinishedAt, s.PID = runtime.StateExited, 137, time.Now(), 0
	c.end(s)
	c.ending.Reason = "ContainerStatusUnknown"
	c.ending.Message = "The container could not be located when the pod was terminated"
}

// lastWords is the termination message: the file, or the log's end.
func (c *container) lastWords(s runtime.ContainerStatus) string {
	text := tail(c.terminationPath(s.Attempt), 4096)
	if text == "" && s.ExitCode != 0 && c.spec.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError {
		text = logTail(logPath(c.w.dir, c.spec.Name, s.Attempt), 2048)
	}
	return text
}

// observe takes in what the runtime says of a container.
func (w *worker) observe(s runtime.ContainerStatus) {
	for _, c := range w.containers {
		if c.spec.Name != s.Name || c.run != nil && (s.Attempt < c.run.Attempt || s.Attempt == c.run.Attempt && c.run.State == runtime.StateExited) {
			continue
		}
		if c.run == nil || s.Attempt > c.run.Attempt {
			if !c.busy {
				continue
			}
			c.again(s) // its end came before the answer to its start
		}
		if s.State == runtime.StateExited {
			c.end(s)
		}
	}
}

// keepRunning starts a container that does not run, when it may.
func (w *worker) keepRunning(c *container) {
	if c.busy || c.running() {
		return
	}
	now := time.Now()
	if now.Before(c.retry) {
		w.wakeAt(c.retry)
		return
	}
	if c.run != nil {
		if at := c.restart.until(c.run.FinishedAt); now.Before(at) {
			w.wakeAt(at)
			if c.reason != "CrashLoopBackOff" {
				c.reason = "CrashLoopBackOff"
				c.message = fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)",
					c.restart.pause, c.spec.Name, w.pod.Name, w.pod.Namespace, w.pod.UID)
				w.containerEvent(c, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s_%s(%s)",
					c.spec.Name, w.pod.Name, w.pod.Namespace, w.pod.UID)
			}
			return
		}
	}
	w.start(c)
}

// lookForImages has containers whose image has come meanwhile tried again.
func (w *worker) lookForImages() {
	for _, c := range w.containers {
		if c.spec.ImagePullPolicy == corev1.PullAlways {
			continue // what is there does not count
		}
		switch c.reason {
		case "ErrImageNeverPull", "ErrImagePull", "ImagePullBackOff":
			if _, err := w.a.Images.Lookup(c.spec.Image); err == nil {
				c.retry = time.Time{}
			}
		}
	}
}

// start runs a container beside the worker.
func (w *worker) start(c *container) {
	c.busy = true
	ctx, cancel := context.WithCancel(w.ctx)
	c.cancelStart = cancel
	s := &starting{
		w: w, c: c, pod: w.pod, spec: c.spec, attempt: c.next, sandbox: w.sandbox, ips: w.ips,
		pull: c.pull, pullFailed: c.pullFailed,
	}
	if c.run != nil {
		s.previous = c.run.ID
	}
	w.beside(func() func() {
		defer cancel()
		status, err := s.run(ctx)
		return func() { w.startedOrNot(c, s, status, err) }
	})
}

func (w *worker) startedOrNot(c *container, s *starting, status runtime.ContainerStatus, err error) {
	c.busy, c.cancelStart = false, nil
	c.pull, c.pullFailed = s.pull, s.pullFailed
	if s.image.ID != "" {
		c.image = s.image
	}
	if err != nil {
		if w.ctx.Err() != nil || w.ending != nil || errors.Is(err, context.Canceled) {
			return
		}
		wait := waitError{reason: "CreateContainerError", retry: time.Second}
		wait.message = err.Error()
		errors.As(err, &wait)
		c.reason, c.message = wait.reason, wait.message
		c.retry = time.Now().Add(wait.retry)
		if wait.ran {
			// The attempt counts as a run that failed to start.
			now := time.Now()
			c.again(runtime.ContainerStatus{ID: c.id(s.attempt), Name: c.spec.Name, Attempt: s.attempt, StartedAt: now})
			c.end(runtime.ContainerStatus{
				ID: c.id(s.attempt), Name: c.spec.Name, Attempt: s.attempt, State: runtime.StateExited, ExitCode: 128, StartedAt: now, FinishedAt: now,
			})
			c.ending.Reason, c.ending.Message = wait.reason, wait.message
			c.retry = time.Time{}
		}
		w.lookForImages() // it may have come before it was said to be waited for
		return
	}
	if c.run == nil || c.run.Attempt < status.Attempt {
		c.again(status)
	}
	if !c.running() || w.sandbox != s.sandbox {
		c.lost()
		return // it has ended already
	}
	w.startProbes(c, false)
}

// stopSignal is what tells a container to end.
func stopSignal(image images.Image, spec *corev1.Container) syscall.Signal {
	name := image.StopSignal
	if spec.Lifecycle != nil && spec.Lifecycle.StopSignal != nil {
		name = string(*spec.Lifecycle.StopSignal)
	}
	if name == "" {
		return syscall.SIGTERM
	}
	if n, err := strconv.Atoi(name); err == nil && n > 0 {
		return syscall.Signal(n)
	}
	name = strings.ToUpper(name)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if s := unix.SignalNum(name); s != 0 {
		return s
	}
	return syscall.SIGTERM
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// tail is the end of a file, or nothing.
func tail(path string, n int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	b := make([]byte, min(n, info.Size()))
	if _, err := f.ReadAt(b, info.Size()-int64(len(b))); err != nil {
		return ""
	}
	return strings.ToValidUTF8(string(b), "")
}
