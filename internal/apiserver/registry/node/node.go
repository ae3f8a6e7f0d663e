package node

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"viaduct.dev/viaduct/internal/apiserver/registry"
)

// Install adds nodes to the server.
func Install(env *registry.Env, r *registry.Resources) error {
	return registry.Install(env, r, registry.Kind[*corev1.Node]{
		Version:       corev1.SchemeGroupVersion,
		Resource:      "nodes",
		Singular:      "node",
		Kind:          "Node",
		ShortNames:    []string{"no"},
		ClusterScoped: true,
		New:           func() *corev1.Node { return &corev1.Node{} },
		NewList:       func() runtime.Object { return &corev1.NodeList{} },
		Columns:       columns(),
		Fields: func(n *corev1.Node) fields.Set {
			unschedulable := "false"
			if n.Spec.Unschedulable {
				unschedulable = "true"
			}
			return fields.Set{"spec.unschedulable": unschedulable}
		},
		Default:           setDefaults,
		Validate:          validate,
		ValidateUpdate:    validateUpdate,
		CreateKeepsStatus: true,
		Status: &registry.Status[*corev1.Node]{
			Validate: func(_ context.Context, n, _ *corev1.Node) field.ErrorList { return validateAddresses(n) },
		},
	})
}

// setDefaults makes the whole capacity allocatable where nothing else is said.
func setDefaults(n *corev1.Node) {
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
}

func validate(_ context.Context, n *corev1.Node) field.ErrorList {
	errs := validateAddresses(n)
	spec := field.NewPath("spec")
	families := map[string]bool{}
	for i, cidr := range n.Spec.PodCIDRs {
		path := spec.Child("podCIDRs").Index(i)
		errs = append(errs, validation.IsValidCIDR(path, cidr)...)
		family := "IPv4"
		for _, c := range cidr {
			if c == ':' {
				family = "IPv6"
			}
		}
		if families[family] || i > 1 {
			errs = append(errs, field.Invalid(spec.Child("podCIDRs"), n.Spec.PodCIDRs, "may specify no more than one CIDR for each IP family"))
		}
		families[family] = true
	}
	if len(n.Spec.PodCIDRs) > 0 && n.Spec.PodCIDR != n.Spec.PodCIDRs[0] {
		errs = append(errs, field.Invalid(spec.Child("podCIDRs").Index(0), n.Spec.PodCIDRs[0], "must match podCIDR"))
	}
	for i, taint := range n.Spec.Taints {
		path := spec.Child("taints").Index(i)
		for _, message := range validation.IsQualifiedName(taint.Key) {
			errs = append(errs, field.Invalid(path.Child("key"), taint.Key, message))
		}
		for _, message := range validation.IsValidLabelValue(taint.Value) {
			errs = append(errs, field.Invalid(path.Child("value"), taint.Value, message))
		}
		switch taint.Effect {
		case corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
		default:
			errs = append(errs, field.NotSupported(path.Child("effect"), taint.Effect,
				[]corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute}))
		}
	}
	return errs
}

func validateAddresses(n *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	seen := map[corev1.NodeAddress]bool{}
	for i, address := range n.Status.Addresses {
		if seen[address] {
			errs = append(errs, field.Duplicate(field.NewPath("status", "addresses").Index(i), address))
		}
		seen[address] = true
	}
	return errs
}

// validateUpdate lets the ranges of Pods and the provider be set once.
func validateUpdate(_ context.Context, n, old *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	if old.Spec.PodCIDR != "" && n.Spec.PodCIDR != old.Spec.PodCIDR {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "podCIDR"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	if old.Spec.ProviderID != "" && n.Spec.ProviderID != old.Spec.ProviderID {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "providerID"), "node updates may not change providerID except from \"\" to valid"))
	}
	return errs
}
