package service

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// validateUpdate checks what may not change: the first address and family while
// a Service has a cluster IP, the class while it is a load balancer.
func validateUpdate(s, old *corev1.Service) errorList {
	spec, was, path := &s.Spec, &old.Spec, field.NewPath("spec")
	var errs errorList
	if needsClusterIP(s) && needsClusterIP(old) {
		errs = append(errs, validateFirst(spec.ClusterIPs, was.ClusterIPs, path.Child("clusterIPs"))...)
		if len(was.ClusterIPs) > 1 && len(spec.ClusterIPs) > 1 && spec.ClusterIPs[1] != was.ClusterIPs[1] {
			errs = append(errs, validation.ValidateImmutableField(spec.ClusterIPs[1], was.ClusterIPs[1], path.Child("clusterIPs").Index(1))...)
		}
		if len(spec.IPFamilies) > 0 && len(was.IPFamilies) > 0 && spec.IPFamilies[0] != was.IPFamilies[0] {
			errs = append(errs, field.Invalid(path.Child("ipFamilies").Index(0), spec.IPFamilies, "may not change once set"))
		}
		if len(was.ClusterIPs) > 1 && len(spec.ClusterIPs) == 1 && ptr.Deref(spec.IPFamilyPolicy, "") != corev1.IPFamilyPolicySingleStack {
			errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary clusterIP"))
		}
	}
	if needsHealthCheckNodePort(s) && needsHealthCheckNodePort(old) && spec.HealthCheckNodePort != was.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(path.Child("healthCheckNodePort"), "field is immutable"))
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer && was.Type == corev1.ServiceTypeLoadBalancer && !same(spec.LoadBalancerClass, was.LoadBalancerClass) {
		errs = append(errs, field.Invalid(path.Child("loadBalancerClass"), spec.LoadBalancerClass, "may not change once set"))
	}
	return errs
}

func validateFirst(now, before []string, path *field.Path) errorList {
	switch {
	case len(before) == 0:
		return nil
	case len(now) == 0:
		return errorList{field.Invalid(path.Index(0), now, "primary clusterIP can not be unset")}
	case now[0] != before[0]:
		return errorList{field.Invalid(path.Index(0), now, "may not change once set")}
	}
	return nil
}

// warnings are shown by kubectl beside a Service that is accepted.
func warnings(_ context.Context, s, _ *corev1.Service) []string {
	var all []string
	if s.Spec.LoadBalancerIP != "" {
		if _, err := netip.ParseAddr(s.Spec.LoadBalancerIP); err != nil {
			all = append(all, fmt.Sprintf("spec.loadBalancerIP: %q is no IP address and will not be honoured", s.Spec.LoadBalancerIP))
		}
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName && len(s.Spec.ExternalIPs) > 0 {
		all = append(all, `spec.externalIPs is ignored when spec.type is "ExternalName"`)
	}
	if s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ExternalName != "" {
		all = append(all, fmt.Sprintf("spec.externalName is ignored when spec.type is not %q", corev1.ServiceTypeExternalName))
	}
	if headless(s) && s.Spec.SessionAffinity != corev1.ServiceAffinityNone {
		all = append(all, "spec.SessionAffinity is ignored for headless services")
	}
	return all
}
