package agent

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/kubectl/pkg/util/qos"

	"viaduct.dev/viaduct/internal/agent/runtime"
)

// publish has the Pod's status written if it changed. The newest one waits;
// those between are never written.
func (w *worker) publish() {
	if w.gone {
		return
	}
	s := w.status()
	if w.published != nil && reflect.DeepEqual(*w.published, s) {
		return
	}
	w.published = &s
	select {
	case <-w.statuses:
	default:
	}
	w.statuses <- s
}

// writeStatuses writes statuses until the worker ends.
func (w *worker) writeStatuses(settled corev1.PodStatus) {
	for {
		select {
		case s := <-w.statuses:
			for failures := 0; ; failures++ {
				err := w.writeStatus(settled, s)
				if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
					settled = s
					break
				}
				if w.ctx.Err() != nil {
					return
				}
				w.a.Log.Warn("a pod's status could not be written", "pod", w.view.Load().pod.Namespace+"/"+w.view.Load().pod.Name, "err", err)
				if pause(w.ctx, retryAfter(failures)) != nil {
					return
				}
				select { // a newer one makes this one superfluous
				case s = <-w.statuses:
				default:
				}
			}
			told := s
			w.post(func() { w.told = &told })
		case <-w.ctx.Done():
			return
		}
	}
}

func (w *worker) writeStatus(old, next corev1.PodStatus) error {
	if reflect.DeepEqual(old, next) {
		return nil
	}
	pod := w.view.Load().pod
	a, err := json.Marshal(corev1.Pod{Status: old})
	if err != nil {
		return err
	}
	b, err := json.Marshal(corev1.Pod{Status: next})
	if err != nil {
		return err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(a, b, corev1.Pod{})
	if err != nil {
		return err
	}
	if string(patch) == "{}" {
		return nil
	}
	// The UID keeps the status from a namesake that came meanwhile.
	var fields map[string]any
	if err := json.Unmarshal(patch, &fields); err != nil {
		return err
	}
	fields["metadata"] = map[string]any{"uid": pod.UID}
	if patch, err = json.Marshal(fields); err != nil {
		return err
	}
	_, err = w.a.Client.CoreV1().Pods(pod.Namespace).Patch(w.ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// status is the Pod's status as it stands.
func (w *worker) status() corev1.PodStatus {
	was := w.settled
	s := corev1.PodStatus{
		Phase: w.phase(), Reason: w.reason, Message: w.message, QOSClass: qos.GetPodQOS(w.pod),
		StartTime: w.pod.Status.StartTime, NominatedNodeName: w.pod.Status.NominatedNodeName,
	}
	if s.StartTime == nil {
		if was.StartTime == nil {
			now := metav1.NewTime(time.Now().Truncate(time.Second))
			was.StartTime = &now
		}
		s.StartTime = was.StartTime
	}
	for _, ip := range w.a.NodeIPs {
		s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip.String()})
	}
	if len(s.HostIPs) > 0 {
		s.HostIP = s.HostIPs[0].IP
	}
	for _, ip := range w.ips {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip.String()})
	}
	if len(s.PodIPs) == 0 {
		s.PodIPs = was.PodIPs
	}
	if len(s.PodIPs) > 0 {
		s.PodIP = s.PodIPs[0].IP
	}
	var unready, incomplete []string
	initialized := true
	for _, c := range w.containers {
		cs := c.status()
		if c.init {
			s.InitContainerStatuses = append(s.InitContainerStatuses, cs)
			done := cs.State.Terminated != nil && cs.State.Terminated.ExitCode == 0
			if c.sidecar() {
				done = c.started || c.everStarted
				if !cs.Ready {
					unready = append(unready, c.spec.Name)
				}
			}
			if !done && !w.initialized() {
				initialized = false
				incomplete = append(incomplete, c.spec.Name)
			}
			continue
		}
		s.ContainerStatuses = append(s.ContainerStatuses, cs)
		if !cs.Ready {
			unready = append(unready, c.spec.Name)
		}
	}
	s.Conditions = w.conditions(was.Conditions, initialized, incomplete, unready)
	w.settled.Conditions, w.settled.StartTime, w.settled.PodIPs = s.Conditions, s.StartTime, s.PodIPs
	return s
}

func (w *worker) phase() corev1.PodPhase {
	failed, ran := false, false
	for _, c := range w.containers {
		if c.sidecar() {
			continue
		}
		ran = ran || !c.init && c.run != nil
		failed = failed || c.run != nil && c.run.State == runtime.StateExited && c.run.ExitCode != 0
	}
	switch was := w.pod.Status.Phase; {
	case was == corev1.PodSucceeded || was == corev1.PodFailed:
		return was
	case w.over && failed:
		return corev1.PodFailed
	case w.over:
		return corev1.PodSucceeded
	case w.ending != nil && w.ending.down && ran:
		// Every container has ended; nothing will run again.
		if failed {
			return corev1.PodFailed
		}
		return corev1.PodSucceeded
	case ran:
		return corev1.PodRunning
	}
	return corev1.PodPending
}

// conditions are those that the agent owns, and the others as they were.
func (w *worker) conditions(was []corev1.PodCondition, initialized bool, incomplete, unready []string) []corev1.PodCondition {
	var all []corev1.PodCondition
	set := func(kind corev1.PodConditionType, ok bool, reason, message string) {
		c := corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, ObservedGeneration: w.pod.Generation}
		if !ok {
			c.Status, c.Reason, c.Message = corev1.ConditionFalse, reason, message
		}
		c.LastTransitionTime = metav1.NewTime(time.Now().Truncate(time.Second))
		for _, old := range was {
			if old.Type == kind && old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
		}
		all = append(all, c)
	}
	set(corev1.PodReadyToStartContainers, w.sandbox != nil, "", "")
	set(corev1.PodInitialized, initialized, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(incomplete, " ")))
	ready, reason, message := len(unready) == 0, "ContainersNotReady", fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))
	switch w.phase() {
	case corev1.PodSucceeded:
		ready, reason, message = false, "PodCompleted", ""
	case corev1.PodFailed:
		ready, reason, message = false, "PodFailed", ""
	}
	containersReady := ready
	gateReason, gateMessage := reason, message
	if ready {
		for _, gate := range w.pod.Spec.ReadinessGates {
			i := slices.IndexFunc(w.pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == gate.ConditionType })
			if i >= 0 && w.pod.Status.Conditions[i].Status == corev1.ConditionTrue {
				continue
			}
			ready, gateReason = false, "ReadinessGatesNotReady"
			gateMessage = fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType)
			if i >= 0 {
				gateMessage = fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, w.pod.Status.Conditions[i].Status)
			}
		}
	}
	set(corev1.PodReady, ready, gateReason, gateMessage)
	set(corev1.ContainersReady, containersReady, reason, message)
	set(corev1.PodScheduled, true, "", "")
	return all
}

func (c *container) status() corev1.ContainerStatus {
	started := c.started && c.running()
	s := corev1.ContainerStatus{
		Name: c.spec.Name, Image: c.spec.Image, ImageID: c.image.ID, Ready: c.ready && c.running() && !c.busy, Started: &started,
	}
	if c.image.Name != "" {
		s.Image = c.image.Name
	}
	if c.init && !c.sidecar() {
		s.Ready = c.run != nil && c.run.State == runtime.StateExited && c.run.ExitCode == 0
	}
	if c.last != nil {
		s.LastTerminationState.Terminated = c.last
	}
	if c.run != nil {
		s.RestartCount, s.ContainerID = int32(c.run.Attempt), c.w.containerID(c.run.ID)
	}
	switch {
	case c.running() && !c.busy:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metaTime(c.run.StartedAt)}
	case c.run != nil && c.run.State == runtime.StateExited && c.reason == "":
		s.State.Terminated = c.ending
	default:
		reason := c.reason
		if reason == "" {
			reason = "ContainerCreating"
		}
		if c.run == nil && reason == "ContainerCreating" && c.w.waitsForInit() && !c.init {
			reason = "PodInitializing"
		}
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: reason, Message: c.message}
		if c.run != nil && c.ending != nil {
			s.LastTerminationState.Terminated = c.ending
		}
	}
	return s
}

func (w *worker) waitsForInit() bool { return len(w.pod.Spec.InitContainers) > 0 }

// containerID is unique on the machine and stays the same after a restart.
func (w *worker) containerID(id string) string {
	return fmt.Sprintf("viaduct://%x", sha256.Sum256([]byte(string(w.pod.UID)+"/"+id)))
}

func metaTime(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }

func capitalize(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
