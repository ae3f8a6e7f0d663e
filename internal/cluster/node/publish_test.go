package node

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPortsThatAreWantedOnTheHost(t *testing.T) {
	node := []netip.Addr{netip.MustParseAddr("172.20.0.11"), netip.MustParseAddr("fd00:172:20::11")}
	ingress := corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{Hostname: "x"}, {IP: "172.20.255.1"}, {IP: "fd00:172:20::ff01"}}}}
	port := func(name string, protocol corev1.Protocol, port, nodePort int32) corev1.ServicePort {
		return corev1.ServicePort{Name: name, Protocol: protocol, Port: port, NodePort: nodePort}
	}
	for name, c := range map[string]struct {
		spec   corev1.ServiceSpec
		status corev1.ServiceStatus
		want   []string
	}{
		"a cluster IP is nobody's outside": {
			spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Ports: []corev1.ServicePort{port("http", "TCP", 80, 0)}},
		},
		"a node port leads to the node": {
			spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{port("http", "TCP", 80, 30080), port("", "UDP", 53, 30053)}},
			want: []string{"NodePort TCP ns/web:http 30080 -> 172.20.0.11:30080", "NodePort UDP ns/web:53 30053 -> 172.20.0.11:30053"},
		},
		"a Service of IPv6 alone is reached by IPv6": {
			spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, IPFamilies: []corev1.IPFamily{corev1.IPv6Protocol}, Ports: []corev1.ServicePort{port("http", "TCP", 80, 30080)}},
			want: []string{"NodePort TCP ns/web:http 30080 -> [fd00:172:20::11]:30080"},
		},
		"a load balancer has its address and its node port": {
			spec:   corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{port("http", "TCP", 80, 30080)}},
			status: ingress,
			want:   []string{"LoadBalancer TCP ns/web:http 80 -> 172.20.255.1:80", "NodePort TCP ns/web:http 30080 -> 172.20.0.11:30080"},
		},
		"a load balancer without an address has only its node port": {
			spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{port("http", "TCP", 80, 30080)}},
			want: []string{"NodePort TCP ns/web:http 30080 -> 172.20.0.11:30080"},
		},
		"what cannot be relayed is left out": {
			spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{port("s", "SCTP", 80, 30080)}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: c.spec, Status: c.status}
			var got []string
			for p, to := range wanted([]*corev1.Service{s}, node) {
				got = append(got, fmt.Sprintf("%s %s %s %d -> %s", p.Kind, p.Protocol, p.Service, p.Port, to))
			}
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
