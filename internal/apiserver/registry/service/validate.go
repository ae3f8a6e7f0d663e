package service

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"viaduct.dev/viaduct/internal/apiserver/registry/address"
)

// validate checks a Service by the rules of its API documentation, in
// Kubernetes' own words.
func validate(s *corev1.Service) errorList {
	spec, path := &s.Spec, field.NewPath("spec")
	var errs errorList
	errs = append(errs, validatePorts(s, path.Child("ports"))...)
	errs = append(errs, metav1validation.ValidateLabels(spec.Selector, path.Child("selector"))...)
	errs = append(errs, validateType(s, path)...)
	errs = append(errs, validateClusterIPs(s, path)...)
	errs = append(errs, validateFamilies(s, path)...)
	errs = append(errs, validateAffinity(s, path)...)
	errs = append(errs, validateExternalIPs(spec.ExternalIPs, path.Child("externalIPs"))...)
	errs = append(errs, validatePolicies(s, path)...)
	errs = append(errs, validateLoadBalancer(s, path)...)
	return errs
}

var types = []corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName}

func validateType(s *corev1.Service, path *field.Path) errorList {
	spec := &s.Spec
	var errs errorList
	if !slices.Contains(types, spec.Type) {
		errs = append(errs, field.NotSupported(path.Child("type"), spec.Type, types))
	}
	switch spec.Type {
	case corev1.ServiceTypeExternalName:
		name := strings.TrimSuffix(spec.ExternalName, ".")
		if len(name) == 0 {
			errs = append(errs, field.Required(path.Child("externalName"), ""))
		} else {
			for _, msg := range validation.IsDNS1123Subdomain(strings.ToLower(name)) {
				errs = append(errs, field.Invalid(path.Child("externalName"), spec.ExternalName, msg))
			}
		}
		if spec.ClusterIP != "" || len(spec.ClusterIPs) > 0 {
			errs = append(errs, field.Forbidden(path.Child("clusterIPs"), "may not be set when `type` is 'ExternalName'"))
		}
		if len(spec.IPFamilies) > 0 {
			errs = append(errs, field.Forbidden(path.Child("ipFamilies"), "may not be set when `type` is 'ExternalName'"))
		}
		if spec.IPFamilyPolicy != nil {
			errs = append(errs, field.Forbidden(path.Child("ipFamilyPolicy"), "may not be set when `type` is 'ExternalName'"))
		}
	case corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		if headless(s) {
			errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(0), corev1.ClusterIPNone, fmt.Sprintf("may not be set to 'None' for %s services", spec.Type)))
		}
	}
	return errs
}

var protocols = []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}

func validatePorts(s *corev1.Service, path *field.Path) errorList {
	spec := &s.Spec
	var errs errorList
	if len(spec.Ports) == 0 && !headless(s) && spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(path, ""))
	}
	type portKey struct {
		protocol corev1.Protocol
		port     int32
	}
	names := map[string]bool{}
	seen, nodePorts := map[portKey]bool{}, map[portKey]bool{}
	for i, p := range spec.Ports {
		at := path.Index(i)
		switch {
		case p.Name == "" && len(spec.Ports) > 1:
			errs = append(errs, field.Required(at.Child("name"), ""))
		case p.Name != "":
			for _, msg := range validation.IsDNS1123Label(p.Name) {
				errs = append(errs, field.Invalid(at.Child("name"), p.Name, msg))
			}
			if names[p.Name] {
				errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
			}
			names[p.Name] = true
		}
		for _, msg := range validation.IsValidPortNum(int(p.Port)) {
			errs = append(errs, field.Invalid(at.Child("port"), p.Port, msg))
		}
		if !slices.Contains(protocols, p.Protocol) {
			errs = append(errs, field.NotSupported(at.Child("protocol"), p.Protocol, protocols))
		}
		errs = append(errs, validateTargetPort(p.TargetPort, at.Child("targetPort"))...)
		if p.AppProtocol != nil {
			for _, msg := range validation.IsQualifiedName(*p.AppProtocol) {
				errs = append(errs, field.Invalid(at.Child("appProtocol"), *p.AppProtocol, msg))
			}
		}
		key := portKey{p.Protocol, p.Port}
		if seen[key] {
			errs = append(errs, field.Duplicate(at, corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		}
		seen[key] = true
		if p.NodePort != 0 {
			if !mayHaveNodePorts(s) {
				errs = append(errs, field.Forbidden(at.Child("nodePort"), fmt.Sprintf("may not be used when `type` is '%s'", spec.Type)))
			}
			key := portKey{p.Protocol, p.NodePort}
			if nodePorts[key] {
				errs = append(errs, field.Duplicate(at.Child("nodePort"), p.NodePort))
			}
			nodePorts[key] = true
		}
	}
	return errs
}

func validateTargetPort(p intstr.IntOrString, path *field.Path) errorList {
	var errs errorList
	if p.Type == intstr.Int {
		for _, msg := range validation.IsValidPortNum(p.IntValue()) {
			errs = append(errs, field.Invalid(path, p.IntValue(), msg))
		}
		return errs
	}
	for _, msg := range validation.IsValidPortName(p.StrVal) {
		errs = append(errs, field.Invalid(path, p.StrVal, msg))
	}
	return errs
}

func validateClusterIPs(s *corev1.Service, path *field.Path) errorList {
	spec := &s.Spec
	at := path.Child("clusterIPs")
	var errs errorList
	if len(spec.ClusterIPs) == 0 {
		if spec.ClusterIP != "" {
			errs = append(errs, field.Required(at, ""))
		}
		return errs
	}
	if spec.ClusterIP != spec.ClusterIPs[0] {
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "element [0] must match clusterIP"))
	}
	if len(spec.ClusterIPs) > 2 {
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "may only hold up to 2 values"))
	}
	families := map[corev1.IPFamily]bool{}
	for i, ip := range spec.ClusterIPs {
		if ip == corev1.ClusterIPNone {
			if i > 0 || len(spec.ClusterIPs) > 1 {
				errs = append(errs, field.Invalid(at.Index(i), ip, "'None' must be the first and only value"))
			}
			continue
		}
		problems := validation.IsValidIP(at.Index(i), ip)
		errs = append(errs, problems...)
		if len(problems) > 0 {
			continue
		}
		if f := familyOf(ip); families[f] {
			errs = append(errs, field.Invalid(at, spec.ClusterIPs, "may specify no more than one IP for each IP family"))
		} else {
			families[f] = true
		}
	}
	return errs
}

func validateFamilies(s *corev1.Service, path *field.Path) errorList {
	spec := &s.Spec
	var errs errorList
	known := []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	seen := map[corev1.IPFamily]bool{}
	for i, f := range spec.IPFamilies {
		at := path.Child("ipFamilies").Index(i)
		if !slices.Contains(known, f) {
			errs = append(errs, field.NotSupported(at, f, known))
		}
		if seen[f] {
			errs = append(errs, field.Duplicate(at, f))
		}
		seen[f] = true
	}
	policies := []corev1.IPFamilyPolicy{corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack}
	if p := spec.IPFamilyPolicy; p != nil && !slices.Contains(policies, *p) {
		errs = append(errs, field.NotSupported(path.Child("ipFamilyPolicy"), *p, policies))
	}
	return errs
}

func validateAffinity(s *corev1.Service, path *field.Path) errorList {
	spec := &s.Spec
	known := []corev1.ServiceAffinity{corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone}
	var errs errorList
	if !slices.Contains(known, spec.SessionAffinity) {
		errs = append(errs, field.NotSupported(path.Child("sessionAffinity"), spec.SessionAffinity, known))
	}
	at := path.Child("sessionAffinityConfig")
	if spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		timeout := at.Child("clientIP", "timeoutSeconds")
		if c := spec.SessionAffinityConfig; c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			errs = append(errs, field.Required(at, fmt.Sprintf("when session affinity type is %s", spec.SessionAffinity)))
		} else if v := *c.ClientIP.TimeoutSeconds; v <= 0 || v > 86400 {
			errs = append(errs, field.Invalid(timeout, v, "must be greater than 0 and less than 86400"))
		}
	} else if spec.SessionAffinityConfig != nil {
		errs = append(errs, field.Forbidden(at, fmt.Sprintf("must not be set when session affinity is %s", spec.SessionAffinity)))
	}
	return errs
}

func validatePolicies(s *corev1.Service, path *field.Path) errorList {
	spec := &s.Spec
	var errs errorList
	external := []corev1.ServiceExternalTrafficPolicy{corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal}
	switch {
	case !takesExternalTraffic(s) && spec.ExternalTrafficPolicy != "":
		errs = append(errs, field.Invalid(path.Child("externalTrafficPolicy"), spec.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	case takesExternalTraffic(s) && !slices.Contains(external, spec.ExternalTrafficPolicy):
		errs = append(errs, field.NotSupported(path.Child("externalTrafficPolicy"), spec.ExternalTrafficPolicy, external))
	}
	if needsHealthCheckNodePort(s) {
		for _, msg := range validation.IsValidPortNum(int(spec.HealthCheckNodePort)) {
			errs = append(errs, field.Invalid(path.Child("healthCheckNodePort"), spec.HealthCheckNodePort, msg))
		}
	} else if spec.HealthCheckNodePort != 0 {
		errs = append(errs, field.Invalid(path.Child("healthCheckNodePort"), spec.HealthCheckNodePort,
			"may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	}
	if p := spec.InternalTrafficPolicy; p != nil {
		internal := []corev1.ServiceInternalTrafficPolicy{corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal}
		if !slices.Contains(internal, *p) {
			errs = append(errs, field.NotSupported(path.Child("internalTrafficPolicy"), *p, internal))
		}
	}
	if d := spec.TrafficDistribution; d != nil {
		known := []string{corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode}
		if !slices.Contains(known, *d) {
			errs = append(errs, field.NotSupported(path.Child("trafficDistribution"), *d, known))
		}
	}
	return errs
}

func validateLoadBalancer(s *corev1.Service, path *field.Path) errorList {
	spec := &s.Spec
	var errs errorList
	balancer := spec.Type == corev1.ServiceTypeLoadBalancer
	if !balancer && spec.AllocateLoadBalancerNodePorts != nil {
		errs = append(errs, field.Forbidden(path.Child("allocateLoadBalancerNodePorts"), "may only be used when `type` is 'LoadBalancer'"))
	}
	if balancer && spec.AllocateLoadBalancerNodePorts == nil {
		errs = append(errs, field.Required(path.Child("allocateLoadBalancerNodePorts"), ""))
	}
	if c := spec.LoadBalancerClass; c != nil {
		if !balancer {
			errs = append(errs, field.Forbidden(path.Child("loadBalancerClass"), "may only be used when `type` is 'LoadBalancer'"))
		} else {
			for _, msg := range validation.IsQualifiedName(*c) {
				errs = append(errs, field.Invalid(path.Child("loadBalancerClass"), *c, msg))
			}
		}
	}
	if len(spec.LoadBalancerSourceRanges) > 0 {
		at := path.Child("loadBalancerSourceRanges")
		if !balancer {
			errs = append(errs, field.Forbidden(at, "may only be used when `type` is 'LoadBalancer'"))
		}
		for i, r := range spec.LoadBalancerSourceRanges {
			errs = append(errs, validation.IsValidCIDR(at.Index(i), strings.TrimSpace(r))...)
		}
	}
	return errs
}

// validateExternalIPs refuses addresses that are the machine's own business.
func validateExternalIPs(ips []string, path *field.Path) errorList {
	var errs errorList
	for i, ip := range ips {
		problems := validation.IsValidIP(path.Index(i), ip)
		errs = append(errs, problems...)
		if a, err := netip.ParseAddr(ip); err == nil && len(problems) == 0 && address.Problem(a) != "" {
			errs = append(errs, field.Invalid(path.Index(i), ip, address.Problem(a)))
		}
	}
	return errs
}

// validateStatus checks what a load balancer tells of itself.
func validateStatus(_ context.Context, s, _ *corev1.Service) errorList {
	path := field.NewPath("status", "loadBalancer", "ingress")
	var errs errorList
	ingress := s.Status.LoadBalancer.Ingress
	if len(ingress) > 0 && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		errs = append(errs, field.Forbidden(path, "may only be used when `spec.type` is \"LoadBalancer\""))
	}
	for i, in := range ingress {
		at := path.Index(i)
		if in.IP != "" {
			errs = append(errs, validation.IsValidIP(at.Child("ip"), in.IP)...)
		}
		if in.Hostname != "" {
			for _, msg := range validation.IsDNS1123Subdomain(in.Hostname) {
				errs = append(errs, field.Invalid(at.Child("hostname"), in.Hostname, msg))
			}
		}
		if in.IPMode != nil {
			modes := []corev1.LoadBalancerIPMode{corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy}
			if in.IP == "" {
				errs = append(errs, field.Forbidden(at.Child("ipMode"), "may not be specified when `ip` is not set"))
			} else if !slices.Contains(modes, ptr.Deref(in.IPMode, "")) {
				errs = append(errs, field.NotSupported(at.Child("ipMode"), *in.IPMode, modes))
			}
		}
	}
	return errs
}
