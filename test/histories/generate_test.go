package histories

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// What histories are made of. Little of everything, so that things meet.
var (
	serviceNames = []string{"a", "b", "c", "d"}
	sliceNames   = []string{"s0", "s1", "s2", "s3", "s4", "s5"}
	zones        = []string{"zone-a", "zone-b", ""}

	servicePorts = []corev1.ServicePort{
		{Name: "http", Protocol: "TCP", Port: 80},
		{Name: "dns", Protocol: "UDP", Port: 80},
		{Name: "alt", Protocol: "TCP", Port: 81},
		{Name: "", Protocol: "TCP", Port: 443},
		{Name: "query", Protocol: "UDP", Port: 53},
	}
	nodePorts = []int32{0, 30080, 30081, 30082, 30083}

	// The addresses that Services ask for: some twice, some of the node's own, one
	// that is another's cluster IP, and some that nobody may have.
	externalIPs = []string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "172.20.0.11", "fd00:172:20::b", "10.96.0.11", "172.20.255.1", "127.0.0.1", "224.0.0.1", "fe80::1"}
	balancerIPs = []string{"172.20.255.1", "172.20.255.2", "172.20.255.9", "fd00:172:20:ff::1", "fd00:172:20:ff::2", "fd00:172:20:ff::9", "192.0.2.1"}
	ranges      = []string{"172.20.0.200/32", "172.20.0.0/24", "10.244.0.0/16", "10.244.1.0/24", "0.0.0.0/0", "fd00:172:20::/64", "fd00:10:244::/56", "fd00:172:20::c8/128"}

	// Where endpoints are: address of each family, and the node that the
	// controllers would name.
	endpointHosts = []struct{ v4, v6, node string }{
		{"10.244.0.2", "fd00:10:244::2", "node-1"},
		{"10.244.1.2", "fd00:10:244:1::2", "node-1"},
		{"10.244.2.2", "fd00:10:244:2::2", "node-1"},
		{"10.244.16.2", "fd00:10:244:10::2", "node-2"},
		{"10.244.17.2", "fd00:10:244:11::2", "node-3"},
		{"172.20.0.11", "fd00:172:20::b", "node-1"}, // with the node's own network
		{"172.20.0.200", "fd00:172:20::c8", ""},     // outside of the cluster
	}
)

func oneIn(n int) *rapid.Generator[bool] {
	return rapid.Map(rapid.IntRange(0, n-1), func(i int) bool { return i == n-1 })
}

// some are a few of a list, mostly few.
func some(t *rapid.T, list []string, most int, label string) []string {
	var all []string
	for range rapid.IntRange(0, most).Draw(t, label) {
		if s := rapid.SampledFrom(list).Draw(t, label); !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

func drawHistory(t *rapid.T) History {
	var h History
	steps := rapid.IntRange(3, 14).Draw(t, "steps")
	for range steps {
		s := Step{More: oneIn(4).Draw(t, "more"), Probes: rapid.Uint64Range(0, 1<<16).Draw(t, "probes")}
		switch kind := rapid.IntRange(0, 19).Draw(t, "kind"); {
		case kind < 7:
			s.Service = drawService(t)
		case kind < 15:
			s.Slice = drawSlice(t)
		case kind == 15:
			s.DeleteService = rapid.SampledFrom(serviceNames).Draw(t, "name")
		case kind == 16:
			s.DeleteSlice = rapid.SampledFrom(sliceNames).Draw(t, "name")
		case kind == 17:
			zone := rapid.SampledFrom(zones).Draw(t, "zone")
			s.Zone = &zone
		default:
			s.Restart = true
		}
		h.Steps = append(h.Steps, s)
	}
	return h
}

func drawService(t *rapid.T) *corev1.Service {
	number := rapid.IntRange(0, len(serviceNames)-1).Draw(t, "service")
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: serviceNames[number],
		// Names are not in the order of creation.
		CreationTimestamp: metav1.NewTime(time.Unix(1700000000+int64([]int{2, 1, 3, 1}[number]), 0).UTC()),
	}}
	s.Spec.Type = rapid.SampledFrom([]corev1.ServiceType{"LoadBalancer", "NodePort", "ClusterIP"}).Draw(t, "type")
	v4, v6 := fmt.Sprintf("10.96.0.%d", 10+number), fmt.Sprintf("fd00:10:96::%x", 10+number)
	s.Spec.ClusterIPs = rapid.SampledFrom([][]string{{v4, v6}, {v4}, {v6}, {v6, v4}}).Draw(t, "cluster IPs")
	for _, a := range s.Spec.ClusterIPs {
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, map[bool]corev1.IPFamily{true: "IPv6", false: "IPv4"}[strings.Contains(a, ":")])
	}
	switch rapid.IntRange(0, 24).Draw(t, "oddity") {
	case 22:
		s.Spec.Type, s.Spec.ClusterIPs = "ExternalName", nil
		s.Spec.ExternalName = "example.org"
	case 23:
		s.Spec.ClusterIPs = []string{"None"}
	case 24:
		s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "other"}
	}
	if len(s.Spec.ClusterIPs) > 0 {
		s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	}
	drawPorts(t, s)
	local := corev1.ServiceInternalTrafficPolicyLocal
	if oneIn(4).Draw(t, "internal local") {
		s.Spec.InternalTrafficPolicy = &local
	}
	if oneIn(3).Draw(t, "external local") {
		s.Spec.ExternalTrafficPolicy = "Local"
	}
	s.Spec.ExternalIPs = some(t, externalIPs, 2, "external IP")
	if oneIn(4).Draw(t, "affinity") {
		seconds := rapid.SampledFrom([]int32{10800, 3600, 50}).Draw(t, "seconds")
		s.Spec.SessionAffinity = "ClientIP"
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
	if s.Spec.Type == "LoadBalancer" {
		proxy := corev1.LoadBalancerIPModeProxy
		for _, ip := range some(t, balancerIPs, 3, "load-balancer IP") {
			in := corev1.LoadBalancerIngress{IP: ip}
			if oneIn(8).Draw(t, "mode Proxy") {
				in.IPMode = &proxy
			}
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, in)
		}
		if oneIn(3).Draw(t, "guarded") {
			s.Spec.LoadBalancerSourceRanges = some(t, ranges, 3, "range")
		}
	}
	return s
}

func drawPorts(t *rapid.T, s *corev1.Service) {
	for range rapid.IntRange(1, 3).Draw(t, "ports") {
		p := rapid.SampledFrom(servicePorts).Draw(t, "port")
		if slices.ContainsFunc(s.Spec.Ports, func(o corev1.ServicePort) bool { return o.Name == p.Name }) {
			continue
		}
		if s.Spec.Type == "NodePort" || s.Spec.Type == "LoadBalancer" {
			p.NodePort = rapid.SampledFrom(nodePorts).Draw(t, "node port")
			if slices.ContainsFunc(s.Spec.Ports, func(o corev1.ServicePort) bool { return o.NodePort == p.NodePort && o.Protocol == p.Protocol }) {
				p.NodePort = 0
			}
		}
		s.Spec.Ports = append(s.Spec.Ports, p)
	}
}

func drawSlice(t *rapid.T) *discoveryv1.EndpointSlice {
	number := rapid.IntRange(0, len(sliceNames)-1).Draw(t, "slice")
	// Each slice mostly belongs to the same Service.
	service := serviceNames[number%len(serviceNames)]
	if oneIn(6).Draw(t, "other service") {
		service = rapid.SampledFrom(serviceNames).Draw(t, "service")
	}
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: sliceNames[number], Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: rapid.SampledFrom([]discoveryv1.AddressType{"IPv4", "IPv6"}).Draw(t, "family"),
	}
	if oneIn(25).Draw(t, "headless") {
		s.Labels[corev1.IsHeadlessService] = ""
	}
	for _, p := range servicePorts {
		if oneIn(8).Draw(t, "without port") {
			continue
		}
		name, protocol := p.Name, p.Protocol
		port := rapid.SampledFrom([]int32{8080, 9090}).Draw(t, "target port")
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &port})
	}
	hinted := rapid.SampledFrom([]string{"", "", "zones", "nodes", "both", "mixed"}).Draw(t, "hints")
	for range rapid.IntRange(0, 4).Draw(t, "endpoints") {
		s.Endpoints = append(s.Endpoints, drawEndpoint(t, s.AddressType, hinted))
	}
	return s
}

func drawEndpoint(t *rapid.T, family discoveryv1.AddressType, hinted string) discoveryv1.Endpoint {
	host := rapid.SampledFrom(endpointHosts).Draw(t, "host")
	e := discoveryv1.Endpoint{Addresses: []string{host.v4}}
	if family == discoveryv1.AddressTypeIPv6 {
		e.Addresses[0] = host.v6
	}
	if host.node != "" && !oneIn(12).Draw(t, "nodeless") {
		e.NodeName = &host.node
	}
	yes, no := true, false
	switch rapid.IntRange(0, 11).Draw(t, "condition") {
	case 6:
		e.Conditions.Ready = &no
	case 7:
		e.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
	case 8:
		e.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &no, Terminating: &yes}
	case 9:
		e.Conditions = discoveryv1.EndpointConditions{Ready: &no, Terminating: &yes}
	case 10: // publishNotReadyAddresses
		e.Conditions = discoveryv1.EndpointConditions{Ready: &yes, Serving: &no, Terminating: &yes}
	case 11:
		e.Conditions = discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no}
	}
	if hinted == "mixed" {
		hinted = rapid.SampledFrom([]string{"", "zones", "nodes"}).Draw(t, "hint")
	}
	if hinted == "zones" || hinted == "both" {
		e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: rapid.SampledFrom(zones[:2]).Draw(t, "for zone")}}}
	}
	if hinted == "nodes" || hinted == "both" {
		if e.Hints == nil {
			e.Hints = &discoveryv1.EndpointHints{}
		}
		e.Hints.ForNodes = []discoveryv1.ForNode{{Name: rapid.SampledFrom([]string{"node-1", "node-2"}).Draw(t, "for node")}}
	}
	return e
}
