package deployment

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"viaduct.dev/viaduct/internal/controllers/loop"
)

// writeStatus tells how far the roll-out is, in the words that `kubectl rollout
// status` waits for.
func (r *rollout) writeStatus(ctx context.Context, key loop.Key) error {
	was := r.d.Status
	s := appsv1.DeploymentStatus{
		ObservedGeneration: r.d.Generation,
		CollisionCount:     was.CollisionCount,
		Conditions:         append([]appsv1.DeploymentCondition(nil), was.Conditions...),
	}
	for _, set := range r.all() {
		s.Replicas += set.Status.Replicas
		s.ReadyReplicas += set.Status.ReadyReplicas
		s.AvailableReplicas += set.Status.AvailableReplicas
	}
	if r.newest != nil {
		s.UpdatedReplicas = r.newest.Status.Replicas
	}
	if missing := sum(r.all(), size) - s.AvailableReplicas; missing > 0 {
		s.UnavailableReplicas = missing
	}

	_, unavailable := bounds(r.d)
	if s.AvailableReplicas >= wanted(r.d)-unavailable {
		r.set(&s, appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		r.set(&s, appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
	r.progress(&s, &was, key)
	r.failure(&s)

	if equality.Semantic.DeepEqual(was, s) {
		return nil
	}
	r.d.Status = s
	updated, err := r.client.AppsV1().Deployments(r.d.Namespace).UpdateStatus(ctx, r.d, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil && !complete(&appsv1.Deployment{ObjectMeta: updated.ObjectMeta, Spec: updated.Spec, Status: was}, r.newest) && complete(updated, r.newest) {
		return r.finish(ctx)
	}
	return err
}

// progress tells whether the roll-out moves, has ended, or is stuck.
func (r *rollout) progress(s, was *appsv1.DeploymentStatus, key loop.Key) {
	if r.d.Spec.Paused {
		r.set(s, appsv1.DeploymentProgressing, corev1.ConditionUnknown, "DeploymentPaused", "Deployment is paused")
		return
	}
	if r.newest == nil || r.d.Spec.ProgressDeadlineSeconds == nil {
		return
	}
	whole := *r.d
	whole.Status = *s
	current := find(was, appsv1.DeploymentProgressing)
	switch {
	case complete(&whole, r.newest):
		r.set(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetAvailable", fmt.Sprintf("ReplicaSet %q has successfully progressed.", r.newest.Name))
	case r.made:
		r.set(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", r.newest.Name))
	case current == nil || current.Reason == "NewReplicaSetAvailable" || current.Reason == "DeploymentPaused" || moved(s, was):
		r.set(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, "ReplicaSetUpdated", fmt.Sprintf("ReplicaSet %q is progressing.", r.newest.Name))
		if c := find(s, appsv1.DeploymentProgressing); c != nil {
			c.LastUpdateTime = metav1.NewTime(r.now)
		}
		r.lookAgain(key, time.Duration(*r.d.Spec.ProgressDeadlineSeconds)*time.Second)
	case current.Reason == "ProgressDeadlineExceeded":
	default:
		deadline := current.LastUpdateTime.Add(time.Duration(*r.d.Spec.ProgressDeadlineSeconds) * time.Second)
		if r.now.Before(deadline) {
			r.lookAgain(key, deadline.Sub(r.now))
			return
		}
		r.set(s, appsv1.DeploymentProgressing, corev1.ConditionFalse, "ProgressDeadlineExceeded", fmt.Sprintf("ReplicaSet %q has timed out progressing.", r.newest.Name))
	}
}

func (r *rollout) lookAgain(key loop.Key, after time.Duration) {
	r.loop.AddAfter(key, after+time.Second)
}

// moved says whether a Pod more is new, ready or available, or one old one less
// is there.
func moved(s, was *appsv1.DeploymentStatus) bool {
	return s.UpdatedReplicas > was.UpdatedReplicas || s.ReadyReplicas > was.ReadyReplicas || s.AvailableReplicas > was.AvailableReplicas ||
		s.Replicas-s.UpdatedReplicas < was.Replicas-was.UpdatedReplicas
}

// failure passes on why the newest set cannot make its Pods.
func (r *rollout) failure(s *appsv1.DeploymentStatus) {
	for _, set := range r.all() {
		for _, c := range set.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				r.set(s, appsv1.DeploymentReplicaFailure, c.Status, c.Reason, c.Message)
				return
			}
		}
	}
	for i, c := range s.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure {
			s.Conditions = append(s.Conditions[:i], s.Conditions[i+1:]...)
			return
		}
	}
}

func find(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// set writes a condition; its times move only when it says something new.
func (r *rollout) set(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	now := metav1.NewTime(r.now)
	c := find(s, t)
	if c == nil {
		s.Conditions = append(s.Conditions, appsv1.DeploymentCondition{
			Type: t, Status: status, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now,
		})
		return
	}
	if c.Status == status && c.Reason == reason {
		return
	}
	if c.Status != status {
		c.LastTransitionTime = now
	}
	c.Status, c.Reason, c.Message, c.LastUpdateTime = status, reason, message, now
}
