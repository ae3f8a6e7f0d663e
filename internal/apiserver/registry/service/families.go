package service

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

type errorList = field.ErrorList

// familyOf is the family of an address as it is written, or empty for what is
// none.
func familyOf(ip string) corev1.IPFamily {
	a, err := netip.ParseAddr(ip)
	switch {
	case err != nil:
		return ""
	case a.Is4():
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func other(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// normalizeClusterIPs makes clusterIP and clusterIPs say the same, whichever
// of them the client has set or changed.
func normalizeClusterIPs(s, old *corev1.Service) {
	spec := &s.Spec
	if old == nil {
		if spec.ClusterIP != "" && len(spec.ClusterIPs) == 0 {
			spec.ClusterIPs = []string{spec.ClusterIP}
		} else if spec.ClusterIP == "" && len(spec.ClusterIPs) > 0 {
			spec.ClusterIP = spec.ClusterIPs[0]
		}
		return
	}
	sameSingle := spec.ClusterIP == old.Spec.ClusterIP
	sameList := slices.Equal(spec.ClusterIPs, old.Spec.ClusterIPs)
	switch {
	case !sameSingle && sameList: // only the older field was written
		switch {
		case spec.ClusterIP == "":
			spec.ClusterIPs = nil
		default:
			spec.ClusterIPs = []string{spec.ClusterIP}
		}
	case sameSingle && !sameList && len(spec.ClusterIPs) == 0:
		spec.ClusterIPs = old.Spec.ClusterIPs
		if s.Spec.Type == corev1.ServiceTypeExternalName {
			spec.ClusterIPs, spec.ClusterIP = nil, ""
		}
	}
}

// settleFamilies fills ipFamilyPolicy and ipFamilies from what the client said
// and from the families of the cluster, the primary first (KEP-563). It finds
// what cannot be satisfied here; validation finds the rest.
func settleFamilies(s, old *corev1.Service, cluster []corev1.IPFamily) errorList {
	spec := &s.Spec
	if spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	var errs errorList
	path := field.NewPath("spec")

	// An update that asks for a single stack drops the second address.
	if old != nil && old.Spec.Type != corev1.ServiceTypeExternalName && ptr.Deref(spec.IPFamilyPolicy, "") == corev1.IPFamilyPolicySingleStack &&
		ptr.Deref(old.Spec.IPFamilyPolicy, "") != corev1.IPFamilyPolicySingleStack && !headlessSelectorless(s) {
		if slices.Equal(spec.ClusterIPs, old.Spec.ClusterIPs) && len(spec.ClusterIPs) > 1 {
			spec.ClusterIPs = spec.ClusterIPs[:1]
		}
		if slices.Equal(spec.IPFamilies, old.Spec.IPFamilies) && len(spec.IPFamilies) > 1 {
			spec.IPFamilies = spec.IPFamilies[:1]
		}
	}

	// Addresses and lists that are given say which families are meant.
	if len(spec.ClusterIPs) > 1 || len(spec.IPFamilies) > 1 {
		if spec.IPFamilyPolicy == nil {
			spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack)
		}
	}
	for i, ip := range spec.ClusterIPs {
		if ip == corev1.ClusterIPNone {
			break
		}
		family := familyOf(ip)
		if family == "" {
			continue // validation says so
		}
		switch {
		case i < len(spec.IPFamilies) && spec.IPFamilies[i] != family:
			errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(i), spec.ClusterIPs, "expected an "+string(spec.IPFamilies[i])+" value as indicated by `ipFamilies["+string(rune('0'+i))+"]`"))
		case i >= len(spec.IPFamilies):
			spec.IPFamilies = append(spec.IPFamilies, family)
		}
	}
	if len(errs) > 0 {
		return errs
	}

	// Without a selector nobody can know which families a headless Service's
	// endpoints have, so it has all.
	if headlessSelectorless(s) {
		if spec.IPFamilyPolicy == nil {
			spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack)
			if len(cluster) < 2 && len(spec.IPFamilies) < 2 {
				spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicySingleStack)
			}
		}
		if len(spec.IPFamilies) == 0 {
			spec.IPFamilies = []corev1.IPFamily{cluster[0]}
		}
		if *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack && len(spec.IPFamilies) == 1 {
			spec.IPFamilies = append(spec.IPFamilies, other(spec.IPFamilies[0]))
		}
		return nil
	}

	if spec.IPFamilyPolicy == nil {
		spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicySingleStack)
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{cluster[0]}
	}
	for i, f := range spec.IPFamilies {
		if (f == corev1.IPv4Protocol || f == corev1.IPv6Protocol) && !slices.Contains(cluster, f) {
			errs = append(errs, field.Invalid(path.Child("ipFamilies").Index(i), f, "not configured on this cluster"))
		}
	}
	switch *spec.IPFamilyPolicy {
	case corev1.IPFamilyPolicyRequireDualStack:
		if len(cluster) < 2 {
			errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
		} else if len(spec.IPFamilies) == 1 {
			spec.IPFamilies = append(spec.IPFamilies, other(spec.IPFamilies[0]))
		}
	case corev1.IPFamilyPolicyPreferDualStack:
		if len(cluster) > 1 && len(spec.IPFamilies) == 1 {
			spec.IPFamilies = append(spec.IPFamilies, other(spec.IPFamilies[0]))
		}
	case corev1.IPFamilyPolicySingleStack:
		if len(spec.ClusterIPs) > 1 {
			errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "must be RequireDualStack or PreferDualStack when multiple clusterIPs are specified"))
		}
		if len(spec.IPFamilies) > 1 {
			errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "must be RequireDualStack or PreferDualStack when multiple ipFamilies are specified"))
		}
	}
	return errs
}

func headlessSelectorless(s *corev1.Service) bool {
	return headless(s) && len(s.Spec.Selector) == 0
}
