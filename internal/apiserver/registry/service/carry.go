package service

import (
	corev1 "k8s.io/api/core/v1"
)

// carryAllocated keeps what was allocated before where an update leaves it out,
// so that a client may PUT the manifest that it once created.
func carryAllocated(s, old *corev1.Service) {
	spec, was := &s.Spec, &old.Spec
	if needsClusterIP(old) && needsClusterIP(s) {
		if spec.ClusterIP == "" && len(spec.ClusterIPs) == 0 {
			spec.ClusterIP, spec.ClusterIPs = was.ClusterIP, was.ClusterIPs
		} else if spec.ClusterIP == was.ClusterIP && len(spec.ClusterIPs) == 0 {
			spec.ClusterIPs = was.ClusterIPs
		} else if spec.ClusterIP == "" && len(spec.ClusterIPs) > 0 {
			spec.ClusterIP = spec.ClusterIPs[0]
		}
		if spec.IPFamilyPolicy == nil {
			spec.IPFamilyPolicy = was.IPFamilyPolicy
		}
		if len(spec.IPFamilies) == 0 {
			spec.IPFamilies = was.IPFamilies
		}
	}
	if needsNodePorts(old) && needsNodePorts(s) {
		type key struct {
			protocol corev1.Protocol
			port     int32
		}
		had := map[key]int32{}
		for _, p := range was.Ports {
			had[key{p.Protocol, p.Port}] = p.NodePort
		}
		asked := map[int32]bool{}
		for _, p := range spec.Ports {
			asked[p.NodePort] = true
		}
		for i := range spec.Ports {
			p := &spec.Ports[i]
			if n := had[key{p.Protocol, p.Port}]; p.NodePort == 0 && !asked[n] {
				p.NodePort = n
			}
		}
	}
	if needsHealthCheckNodePort(old) && needsHealthCheckNodePort(s) && spec.HealthCheckNodePort == 0 {
		spec.HealthCheckNodePort = was.HealthCheckNodePort
	}
}

// dropForType clears what belonged to the type that a Service had and is not
// of its new one. A field that the client has changed itself is left for
// validation to refuse.
func dropForType(s, old *corev1.Service) {
	spec, was := &s.Spec, &old.Spec
	if needsClusterIP(old) && !needsClusterIP(s) {
		if spec.ClusterIP == was.ClusterIP {
			spec.ClusterIP = ""
		}
		if len(spec.ClusterIPs) == len(was.ClusterIPs) {
			spec.ClusterIPs = nil
		}
		spec.IPFamilies, spec.IPFamilyPolicy = nil, nil
		spec.InternalTrafficPolicy = nil
	}
	if mayHaveNodePorts(old) && !mayHaveNodePorts(s) {
		had := map[int32]bool{}
		for _, p := range was.Ports {
			had[p.NodePort] = true
		}
		for i := range spec.Ports {
			if had[spec.Ports[i].NodePort] {
				spec.Ports[i].NodePort = 0
			}
		}
	}
	if needsHealthCheckNodePort(old) && !needsHealthCheckNodePort(s) && spec.HealthCheckNodePort == was.HealthCheckNodePort {
		spec.HealthCheckNodePort = 0
	}
	if was.Type == corev1.ServiceTypeLoadBalancer && spec.Type != corev1.ServiceTypeLoadBalancer {
		spec.AllocateLoadBalancerNodePorts = nil
		if same(spec.LoadBalancerClass, was.LoadBalancerClass) {
			spec.LoadBalancerClass = nil
		}
	}
	if takesExternalTraffic(old) && !takesExternalTraffic(s) && spec.ExternalTrafficPolicy == was.ExternalTrafficPolicy {
		spec.ExternalTrafficPolicy = ""
	}
}

func same(a, b *string) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}
