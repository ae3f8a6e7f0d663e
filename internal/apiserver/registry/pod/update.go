package pod

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateUpdate refuses changes to what a running Pod has been made from; only
// images, the active deadline and further tolerations may change.
func validateUpdate(p, old *corev1.Pod) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if len(p.Spec.Containers) != len(old.Spec.Containers) {
		return field.ErrorList{field.Forbidden(path.Child("containers"), "pod updates may not add or remove containers")}
	}
	if len(p.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return field.ErrorList{field.Forbidden(path.Child("initContainers"), "pod updates may not add or remove containers")}
	}
	if d, was := p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds; was != nil && (d == nil || *d > *was) {
		errs = append(errs, field.Invalid(path.Child("activeDeadlineSeconds"), d, "must be less than or equal to previous value"))
	}
	for _, t := range old.Spec.Tolerations {
		found := false
		for _, u := range p.Spec.Tolerations {
			found = found || equality.Semantic.DeepEqual(t, u)
		}
		if !found {
			errs = append(errs, field.Forbidden(path.Child("tolerations"), "existing toleration can not be modified except its tolerationSeconds"))
		}
	}
	same := p.Spec.DeepCopy()
	for i := range same.Containers {
		same.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range same.InitContainers {
		same.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	same.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	same.Tolerations = old.Spec.Tolerations
	if g := old.Spec.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		same.TerminationGracePeriodSeconds = g
	}
	if !equality.Semantic.DeepEqual(*same, old.Spec) {
		errs = append(errs, field.Forbidden(path, "pod updates may not change fields other than `spec.containers[*].image`,"+
			"`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"+
			"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"))
	}
	return errs
}
