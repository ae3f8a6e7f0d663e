package replicaset

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func pod(name, node string, ready bool, age time.Duration, change ...func(*corev1.Pod)) *corev1.Pod {
	now := time.Now()
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(now.Add(-age))},
		Spec:       corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.NewTime(now.Add(-age))},
		}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func TestTheLeastMissedGoFirst(t *testing.T) {
	cheap := func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "-5"} }
	pods := []*corev1.Pod{
		pod("old", "a", true, 3*time.Hour),
		pod("young", "b", true, time.Minute),
		pod("doubled", "c", true, 2*time.Hour),
		pod("doubled-too", "c", true, time.Hour),
		pod("cheap", "d", true, 5*time.Hour, cheap),
		pod("unready", "e", false, time.Hour),
		pod("pending", "f", false, time.Hour, func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }),
		pod("nowhere", "", false, time.Hour),
	}
	want := []string{"nowhere", "pending", "unready", "cheap", "doubled-too", "doubled", "young", "old"}
	for i, p := range victims(pods, len(pods)) {
		if p.Name != want[i] {
			t.Errorf("victim %d is %s, want %s", i+1, p.Name, want[i])
		}
	}
	if n := len(victims(pods, 3)); n != 3 {
		t.Errorf("%d victims, not 3", n)
	}
}
