package serviceenv

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func service(namespace, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, Ports: ports},
	}
}

func TestFor(t *testing.T) {
	kubernetes := service("default", "kubernetes", "10.96.0.1", corev1.ServicePort{Name: "https", Port: 443, Protocol: "TCP"})
	kubernetesEnv := `KUBERNETES_SERVICE_HOST=10.96.0.1
KUBERNETES_SERVICE_PORT=443
KUBERNETES_SERVICE_PORT_HTTPS=443
KUBERNETES_PORT=tcp://10.96.0.1:443
KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443
KUBERNETES_PORT_443_TCP_PROTO=tcp
KUBERNETES_PORT_443_TCP_PORT=443
KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1`
	redis := service("shop", "redis-master", "10.96.0.11", corev1.ServicePort{Port: 6379, Protocol: "TCP"})
	for _, c := range []struct {
		name      string
		services  []*corev1.Service
		namespace string
		noLinks   bool
		want      string
	}{
		{
			name:     "a Service of the namespace and the API's",
			services: []*corev1.Service{redis, kubernetes}, namespace: "shop",
			want: kubernetesEnv + `
REDIS_MASTER_SERVICE_HOST=10.96.0.11
REDIS_MASTER_SERVICE_PORT=6379
REDIS_MASTER_PORT=tcp://10.96.0.11:6379
REDIS_MASTER_PORT_6379_TCP=tcp://10.96.0.11:6379
REDIS_MASTER_PORT_6379_TCP_PROTO=tcp
REDIS_MASTER_PORT_6379_TCP_PORT=6379
REDIS_MASTER_PORT_6379_TCP_ADDR=10.96.0.11`,
		},
		{
			name:     "without links only the API's",
			services: []*corev1.Service{redis, kubernetes}, namespace: "shop", noLinks: true,
			want: kubernetesEnv,
		},
		{
			name:     "without links the API's also in its own namespace",
			services: []*corev1.Service{kubernetes, service("default", "x", "10.96.0.9", corev1.ServicePort{Port: 1})}, namespace: "default", noLinks: true,
			want: kubernetesEnv,
		},
		{
			name:     "other namespaces do not count",
			services: []*corev1.Service{redis, kubernetes}, namespace: "elsewhere",
			want: kubernetesEnv,
		},
		{
			name: "headless and ExternalName Services have none",
			services: []*corev1.Service{
				service("shop", "headless", "None", corev1.ServicePort{Port: 80}),
				service("shop", "outside", ""),
			}, namespace: "shop",
			want: "",
		},
		{
			name: "a Service named kubernetes of the own namespace wins",
			services: []*corev1.Service{
				kubernetes,
				service("shop", "kubernetes", "10.96.7.7", corev1.ServicePort{Port: 1, Protocol: "TCP"}),
			}, namespace: "shop",
			want: `KUBERNETES_SERVICE_HOST=10.96.7.7
KUBERNETES_SERVICE_PORT=1
KUBERNETES_PORT=tcp://10.96.7.7:1
KUBERNETES_PORT_1_TCP=tcp://10.96.7.7:1
KUBERNETES_PORT_1_TCP_PROTO=tcp
KUBERNETES_PORT_1_TCP_PORT=1
KUBERNETES_PORT_1_TCP_ADDR=10.96.7.7`,
		},
		{
			name: "several named ports, and UDP over IPv6",
			services: []*corev1.Service{service("shop", "dns", "fd00:10:96::53",
				corev1.ServicePort{Name: "dns-udp", Port: 53, Protocol: "UDP"},
				corev1.ServicePort{Name: "web", Port: 80, Protocol: "TCP"})}, namespace: "shop",
			want: `DNS_SERVICE_HOST=fd00:10:96::53
DNS_SERVICE_PORT=53
DNS_SERVICE_PORT_DNS_UDP=53
DNS_SERVICE_PORT_WEB=80
DNS_PORT=udp://[fd00:10:96::53]:53
DNS_PORT_53_UDP=udp://[fd00:10:96::53]:53
DNS_PORT_53_UDP_PROTO=udp
DNS_PORT_53_UDP_PORT=53
DNS_PORT_53_UDP_ADDR=fd00:10:96::53
DNS_PORT_80_TCP=tcp://[fd00:10:96::53]:80
DNS_PORT_80_TCP_PROTO=tcp
DNS_PORT_80_TCP_PORT=80
DNS_PORT_80_TCP_ADDR=fd00:10:96::53`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var lines []string
			for _, e := range For(c.services, c.namespace, !c.noLinks) {
				lines = append(lines, e.Name+"="+e.Value)
			}
			if got := strings.Join(lines, "\n"); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}
