package deployment

import (
	"cmp"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// bounds are how many Pods more than wanted there may be, and how many fewer
// available ones. Percentages of the surge are rounded up, those of the
// unavailable down, and never are both zero: nothing could move.
func bounds(d *appsv1.Deployment) (surge, unavailable int32) {
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || d.Spec.Strategy.RollingUpdate == nil {
		return 0, 0
	}
	want := int(wanted(d))
	r := d.Spec.Strategy.RollingUpdate
	s, _ := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(r.MaxSurge, intstr.FromInt32(0)), want, true)
	u, _ := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(r.MaxUnavailable, intstr.FromInt32(0)), want, false)
	if s == 0 && u == 0 {
		u = 1
	}
	return int32(s), min(int32(u), wanted(d))
}

func wanted(d *appsv1.Deployment) int32 { return ptr.Deref(d.Spec.Replicas, 1) }

func size(s *appsv1.ReplicaSet) int32 { return ptr.Deref(s.Spec.Replicas, 1) }

func sum(sets []*appsv1.ReplicaSet, of func(*appsv1.ReplicaSet) int32) (n int32) {
	for _, s := range sets {
		if s != nil {
			n += of(s)
		}
	}
	return n
}

func availableOf(s *appsv1.ReplicaSet) int32 { return s.Status.AvailableReplicas }

// newSize is what the new set's size may be now.
func newSize(d *appsv1.Deployment, newest *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) int32 {
	want := wanted(d)
	if size(newest) >= want {
		return want
	}
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return want
	}
	surge, _ := bounds(d)
	room := want + surge - size(newest) - sum(old, size)
	if room <= 0 {
		return size(newest)
	}
	return size(newest) + min(room, want-size(newest))
}

// oldSizes is what the old sets' sizes may be now, in their order. Pods that are
// not available go first, because nobody misses them.
func oldSizes(d *appsv1.Deployment, newest *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) []int32 {
	sizes := make([]int32, len(old))
	for i, s := range old {
		sizes[i] = size(s)
	}
	_, unavailable := bounds(d)
	least := wanted(d) - unavailable
	newUnavailable := size(newest) - newest.Status.AvailableReplicas
	mayGo := sum(old, size) + size(newest) - least - newUnavailable
	if mayGo <= 0 {
		return sizes
	}
	oldest := byAge(old)
	for _, i := range oldest { // the unhealthy ones
		down := min(mayGo, max(0, sizes[i]-old[i].Status.AvailableReplicas))
		sizes[i] -= down
		mayGo -= down
	}
	mayGo = min(mayGo, sum(old, availableOf)+newest.Status.AvailableReplicas-least)
	for _, i := range oldest {
		down := min(max(0, mayGo), sizes[i])
		sizes[i] -= down
		mayGo -= down
	}
	return sizes
}

// byAge gives the places of sets, oldest first.
func byAge(sets []*appsv1.ReplicaSet) []int {
	order := make([]int, len(sets))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(sets[a].CreationTimestamp.Compare(sets[b].CreationTimestamp.Time), cmp.Compare(sets[a].Name, sets[b].Name))
	})
	return order
}

// proportional spreads a change of the Deployment's size over all its sets in
// the middle of a roll-out, in proportion to their sizes; what rounding leaves
// goes to the largest.
func proportional(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) []int32 {
	surge, _ := bounds(d)
	allowed := int32(0)
	if wanted(d) > 0 {
		allowed = wanted(d) + surge
	}
	total := sum(sets, size)
	sizes := make([]int32, len(sets))
	left := allowed - total
	order := make([]int, len(sets))
	for i, s := range sets {
		sizes[i] = size(s)
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return -cmp.Compare(sizes[a], sizes[b]) })
	change := left
	for _, i := range order {
		if total == 0 || left == 0 {
			break
		}
		part := int32(int64(change) * int64(size(sets[i])) / int64(total))
		sizes[i] = max(0, sizes[i]+part)
		left -= part
	}
	if len(order) > 0 {
		sizes[order[0]] = max(0, sizes[order[0]]+left)
	}
	return sizes
}
