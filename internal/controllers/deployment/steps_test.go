package deployment

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

func rolling(replicas int32, surge, unavailable string) *appsv1.Deployment {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	return &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: &replicas, Strategy: appsv1.DeploymentStrategy{
		Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u},
	}}}
}

func set(size, available int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Replicas: &size}, Status: appsv1.ReplicaSetStatus{Replicas: size, AvailableReplicas: available}}
}

func TestBounds(t *testing.T) {
	for _, c := range []struct {
		replicas           int32
		surge, unavailable string
		wantS, wantU       int32
	}{
		{10, "25%", "25%", 3, 2}, {1, "25%", "25%", 1, 0}, {4, "1", "0", 1, 0}, {3, "0", "10%", 0, 1}, {2, "0", "5", 0, 2}, {0, "25%", "25%", 0, 0},
	} {
		s, u := bounds(rolling(c.replicas, c.surge, c.unavailable))
		if c.replicas > 0 && (s != c.wantS || u != c.wantU) {
			t.Errorf("%d replicas, %s and %s: surge %d unavailable %d, want %d and %d", c.replicas, c.surge, c.unavailable, s, u, c.wantS, c.wantU)
		}
	}
}

// Whatever becomes ready, whenever it does, a roll-out ends, never has more Pods
// than the surge allows, and never fewer available ones than the bound once that
// many were.
func TestRolloutKeepsItsBoundsAndEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int32Range(1, 12).Draw(t, "replicas")
		surge := rapid.Int32Range(0, 4).Draw(t, "surge")
		unavailable := rapid.Int32Range(0, 4).Draw(t, "unavailable")
		if surge == 0 && unavailable == 0 {
			surge = 1
		}
		d := rolling(n, fmt.Sprint(surge), fmt.Sprint(unavailable))
		_, most := bounds(d)
		newest, old := set(0, 0), []*appsv1.ReplicaSet{set(n, n)}
		for step := 0; ; step++ {
			if step > 500 {
				t.Fatalf("it does not end: new %d/%d old %d/%d", newest.Status.AvailableReplicas, size(newest), old[0].Status.AvailableReplicas, size(old[0]))
			}
			if want := newSize(d, newest, old); want != size(newest) {
				newest.Spec.Replicas = &want
			} else {
				for i, want := range oldSizes(d, newest, old) {
					// The unhealthy go first, so what is left is available.
					old[i].Spec.Replicas = &want
					old[i].Status.AvailableReplicas = min(old[i].Status.AvailableReplicas, want)
				}
			}
			if total := size(newest) + size(old[0]); total > n+surge {
				t.Fatalf("%d Pods, at most %d", total, n+surge)
			}
			if available := newest.Status.AvailableReplicas + old[0].Status.AvailableReplicas; available < n-most {
				t.Fatalf("%d available, at least %d", available, n-most)
			}
			if size(newest) == n && size(old[0]) == 0 {
				return
			}
			if newest.Status.AvailableReplicas < size(newest) && rapid.Bool().Draw(t, "one becomes available") {
				newest.Status.AvailableReplicas++
			}
		}
	})
}

func TestScalingInTheMiddleIsInProportion(t *testing.T) {
	d := rolling(20, "0", "5")
	sizes := proportional(d, []*appsv1.ReplicaSet{set(8, 8), set(2, 2)})
	if sizes[0]+sizes[1] != 20 || sizes[0] < sizes[1] || sizes[1] < 2 {
		t.Errorf("10 Pods scaled to 20 become %v", sizes)
	}
}
