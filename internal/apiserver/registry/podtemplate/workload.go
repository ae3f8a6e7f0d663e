package podtemplate

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateWorkload checks what those who make Pods from a template have in
// common: a selector that matches the template, and a template that may be
// restarted for ever.
func ValidateWorkload(selector *metav1.LabelSelector, template *corev1.PodTemplateSpec, replicas *int32, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if replicas != nil && *replicas < 0 {
		errs = append(errs, field.Invalid(at.Child("replicas"), *replicas, "must be greater than or equal to 0"))
	}
	if selector == nil {
		errs = append(errs, field.Required(at.Child("selector"), ""))
	} else {
		errs = append(errs, metav1validation.ValidateLabelSelector(selector, metav1validation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
		if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
			errs = append(errs, field.Invalid(at.Child("selector"), selector, "empty selector is invalid for deployment"))
		} else if s, err := metav1.LabelSelectorAsSelector(selector); err != nil {
			errs = append(errs, field.Invalid(at.Child("selector"), selector, "invalid label selector"))
		} else if !s.Matches(labels.Set(template.Labels)) {
			errs = append(errs, field.Invalid(at.Child("template", "metadata", "labels"), template.Labels, "`selector` does not match template `labels`"))
		}
	}
	errs = append(errs, metav1validation.ValidateLabels(template.Labels, at.Child("template", "metadata", "labels"))...)
	errs = append(errs, Validate(&template.Spec, at.Child("template", "spec"))...)
	if p := template.Spec.RestartPolicy; p != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(at.Child("template", "spec", "restartPolicy"), p, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	return errs
}

// ContainerNames and ContainerImages are how tables tell a template.
func ContainerNames(t *corev1.PodTemplateSpec) string {
	return each(t, func(c *corev1.Container) string { return c.Name })
}

// ContainerImages are the images of a template's containers, for tables.
func ContainerImages(t *corev1.PodTemplateSpec) string {
	return each(t, func(c *corev1.Container) string { return c.Image })
}

func each(t *corev1.PodTemplateSpec, of func(*corev1.Container) string) string {
	var all []string
	for i := range t.Spec.Containers {
		all = append(all, of(&t.Spec.Containers[i]))
	}
	return strings.Join(all, ",")
}
