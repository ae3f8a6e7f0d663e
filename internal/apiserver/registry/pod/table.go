package pod

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"viaduct.dev/viaduct/internal/apiserver/table"
)

func columns() []table.Column[*corev1.Pod] {
	return []table.Column[*corev1.Pod]{
		{Name: "Ready", Description: "How many of its containers are ready.", Cell: func(p *corev1.Pod) any { return summarize(p).ready }},
		{Name: "Status", Description: "What it is doing, or what keeps it from that.", Cell: func(p *corev1.Pod) any { return summarize(p).reason }},
		{Name: "Restarts", Description: "How often containers were restarted.", Cell: func(p *corev1.Pod) any { return summarize(p).restarts }},
		table.Age[*corev1.Pod](),
		{Name: "IP", Wide: true, Description: "Its address.", Cell: func(p *corev1.Pod) any {
			if len(p.Status.PodIPs) > 0 {
				return p.Status.PodIPs[0].IP
			}
			return orNone(p.Status.PodIP)
		}},
		{Name: "Node", Wide: true, Description: "Where it runs.", Cell: func(p *corev1.Pod) any { return orNone(p.Spec.NodeName) }},
		{Name: "Nominated Node", Wide: true, Description: "Where it may run soon.", Cell: func(p *corev1.Pod) any { return orNone(p.Status.NominatedNodeName) }},
		{Name: "Readiness Gates", Wide: true, Description: "How many of its gates are open.", Cell: func(p *corev1.Pod) any { return gates(p) }},
	}
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

func gates(p *corev1.Pod) string {
	if len(p.Spec.ReadinessGates) == 0 {
		return "<none>"
	}
	open := 0
	for _, g := range p.Spec.ReadinessGates {
		for _, c := range p.Status.Conditions {
			if c.Type == g.ConditionType && c.Status == corev1.ConditionTrue {
				open++
			}
		}
	}
	return fmt.Sprintf("%d/%d", open, len(p.Spec.ReadinessGates))
}

// summary is what one row tells of a Pod's containers.
type summary struct{ ready, reason, restarts string }

// summarize finds the one word that kubectl users know a Pod's state by.
func summarize(p *corev1.Pod) summary {
	reason := string(p.Status.Phase)
	if p.Status.Reason != "" {
		reason = p.Status.Reason
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			reason = corev1.PodReasonSchedulingGated
		}
	}

	var restarts, sidecarRestarts int32
	var lastRestart, lastSidecarRestart corev1.ContainerStateTerminated
	sidecars := map[string]bool{}
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			sidecars[c.Name] = true
		}
	}
	total, ready := len(p.Spec.Containers)+len(sidecars), 0

	later := func(last *corev1.ContainerStateTerminated, s *corev1.ContainerStatus) {
		if t := s.LastTerminationState.Terminated; t != nil && last.FinishedAt.Before(&t.FinishedAt) {
			*last = *t
		}
	}
	initializing := false
	for i := range p.Status.InitContainerStatuses {
		s := &p.Status.InitContainerStatuses[i]
		restarts += s.RestartCount
		later(&lastRestart, s)
		if sidecars[s.Name] {
			sidecarRestarts += s.RestartCount
			later(&lastSidecarRestart, s)
		}
		started := s.Started != nil && *s.Started
		switch {
		case s.State.Terminated != nil && s.State.Terminated.ExitCode == 0:
			continue
		case sidecars[s.Name] && started:
			if s.Ready {
				ready++
			}
			continue
		case s.State.Terminated != nil:
			reason = "Init:" + ended(s.State.Terminated)
		case s.State.Waiting != nil && s.State.Waiting.Reason != "" && s.State.Waiting.Reason != "PodInitializing":
			reason = "Init:" + s.State.Waiting.Reason
		default:
			reason = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		}
		initializing = true
		break
	}

	if !initializing || initialized(p) {
		restarts, lastRestart = sidecarRestarts, lastSidecarRestart
		running := false
		for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
			s := &p.Status.ContainerStatuses[i]
			restarts += s.RestartCount
			later(&lastRestart, s)
			switch {
			case s.State.Waiting != nil && s.State.Waiting.Reason != "":
				reason = s.State.Waiting.Reason
			case s.State.Terminated != nil:
				reason = ended(s.State.Terminated)
			case s.Ready && s.State.Running != nil:
				running = true
				ready++
			}
		}
		if reason == "Completed" && running {
			reason = "NotReady"
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
					reason = "Running"
				}
			}
		}
	}

	if p.DeletionTimestamp != nil {
		switch {
		case p.Status.Reason == "NodeLost":
			reason = "Unknown"
		case p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed:
			reason = "Terminating"
		}
	}
	out := summary{ready: fmt.Sprintf("%d/%d", ready, total), reason: reason, restarts: fmt.Sprint(restarts)}
	if restarts != 0 && !lastRestart.FinishedAt.IsZero() {
		out.restarts = fmt.Sprintf("%d (%s ago)", restarts, table.Since(lastRestart.FinishedAt))
	}
	return out
}

// ended is the word for how a container ended.
func ended(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

func initialized(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodInitialized {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
