package apiserver

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// manifest reads a Service; it is in namespace default.
func manifest(t *testing.T, text string) *corev1.Service {
	t.Helper()
	s := &corev1.Service{}
	must(t, yaml.Unmarshal([]byte(text), s))
	return s
}

func (c *cluster) service(t *testing.T, text string) *corev1.Service {
	t.Helper()
	s, err := c.client.CoreV1().Services("default").Create(t.Context(), manifest(t, text), metav1.CreateOptions{})
	must(t, err)
	return s
}

func TestServicesAreSettled(t *testing.T) {
	c := start(t, t.TempDir())
	for _, test := range []struct {
		name, text string
		check      func(*corev1.Service) bool
	}{
		{"a cluster IP of the primary family", `{metadata: {name: a}, spec: {ports: [{port: 80}]}}`, func(s *corev1.Service) bool {
			return strings.HasPrefix(s.Spec.ClusterIP, "10.") && len(s.Spec.ClusterIPs) == 1 && s.Spec.IPFamilies[0] == "IPv4" &&
				*s.Spec.IPFamilyPolicy == "SingleStack" && s.Spec.Ports[0].TargetPort.IntValue() == 80 && s.Spec.Ports[0].Protocol == "TCP" &&
				*s.Spec.InternalTrafficPolicy == "Cluster" && s.Spec.SessionAffinity == "None" && s.Spec.Ports[0].NodePort == 0
		}},
		{"both families when preferred", `{metadata: {name: b}, spec: {ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]}}`, func(s *corev1.Service) bool {
			return len(s.Spec.ClusterIPs) == 2 && strings.HasPrefix(s.Spec.ClusterIPs[1], "fd00:10:96::") && len(s.Spec.IPFamilies) == 2
		}},
		{"the second family alone", `{metadata: {name: c}, spec: {ipFamilies: [IPv6], ports: [{port: 80}]}}`, func(s *corev1.Service) bool {
			return len(s.Spec.ClusterIPs) == 1 && strings.HasPrefix(s.Spec.ClusterIP, "fd00:10:96::")
		}},
		{"the address that is asked for", `{metadata: {name: d}, spec: {clusterIP: 10.96.0.77, ports: [{port: 80}]}}`, func(s *corev1.Service) bool { return s.Spec.ClusterIP == "10.96.0.77" }},
		{"none", `{metadata: {name: e}, spec: {clusterIP: None, selector: {a: b}}}`, func(s *corev1.Service) bool {
			return s.Spec.ClusterIP == "None" && len(s.Spec.IPFamilies) == 1
		}},
		{"none, and no selector", `{metadata: {name: f}, spec: {clusterIP: None}}`, func(s *corev1.Service) bool { return len(s.Spec.IPFamilies) == 2 }},
		{"a name outside", `{metadata: {name: g}, spec: {type: ExternalName, externalName: db.example.com}}`, func(s *corev1.Service) bool {
			return s.Spec.ClusterIP == "" && s.Spec.IPFamilies == nil && s.Spec.InternalTrafficPolicy == nil
		}},
		{"a node port", `{metadata: {name: h}, spec: {type: NodePort, ports: [{port: 80}]}}`, func(s *corev1.Service) bool {
			return s.Spec.Ports[0].NodePort >= 30000 && s.Spec.ExternalTrafficPolicy == "Cluster"
		}},
		{"one number for both protocols", `{metadata: {name: i}, spec: {type: NodePort, ports: [{name: t, port: 53}, {name: u, port: 53, protocol: UDP}]}}`, func(s *corev1.Service) bool {
			return s.Spec.Ports[0].NodePort == s.Spec.Ports[1].NodePort && s.Spec.Ports[0].NodePort != 0
		}},
		{"a load balancer with its health check", `{metadata: {name: j}, spec: {type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]}}`, func(s *corev1.Service) bool {
			return s.Spec.HealthCheckNodePort >= 30000 && s.Spec.Ports[0].NodePort >= 30000 && *s.Spec.AllocateLoadBalancerNodePorts
		}},
		{"a load balancer without node ports", `{metadata: {name: k}, spec: {type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80}]}}`, func(s *corev1.Service) bool {
			return s.Spec.Ports[0].NodePort == 0
		}},
		{"affinity with its timeout", `{metadata: {name: l}, spec: {sessionAffinity: ClientIP, ports: [{port: 80}]}}`, func(s *corev1.Service) bool {
			return *s.Spec.SessionAffinityConfig.ClientIP.TimeoutSeconds == 10800
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if s := c.service(t, test.text); !test.check(s) {
				out, _ := yaml.Marshal(s)
				t.Errorf("it became\n%s", out)
			}
		})
	}
	self, err := c.client.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	must(t, err)
	if self.Spec.ClusterIP != "10.96.0.1" {
		t.Errorf("default/kubernetes has %v", self.Spec.ClusterIPs)
	}
}

func TestServicesAreRefusedInKubernetesWords(t *testing.T) {
	c := start(t, t.TempDir())
	c.service(t, `{metadata: {name: taken}, spec: {type: NodePort, clusterIP: 10.96.0.50, ports: [{port: 80, nodePort: 30050}]}}`)
	for text, want := range map[string]string{
		`{metadata: {name: x}, spec: {clusterIP: 10.96.0.50, ports: [{port: 80}]}}`:                                                                 "failed to allocate IP 10.96.0.50: provided IP is already allocated",
		`{metadata: {name: x}, spec: {clusterIP: 192.0.2.1, ports: [{port: 80}]}}`:                                                                  "the provided IP (192.0.2.1) is not in the valid range. The range of valid IPs is 10.96.0.0/12",
		`{metadata: {name: x}, spec: {type: NodePort, ports: [{port: 80, nodePort: 30050}]}}`:                                                       "spec.ports[0].nodePort: Invalid value: 30050: provided port is already allocated",
		`{metadata: {name: x}, spec: {type: NodePort, ports: [{port: 80, nodePort: 80}]}}`:                                                          "provided port is not in the valid range. The range of valid ports is 30000-32767",
		`{metadata: {name: x}, spec: {ports: [{port: 80, nodePort: 30051}]}}`:                                                                       "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
		`{metadata: {name: x}, spec: {}}`:                                                                                                           "spec.ports: Required value",
		`{metadata: {name: x}, spec: {ports: [{port: 0}]}}`:                                                                                         "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
		`{metadata: {name: x}, spec: {ports: [{port: 80}, {port: 81}]}}`:                                                                            "spec.ports[0].name: Required value",
		`{metadata: {name: x}, spec: {ports: [{name: a, port: 80}, {name: a, port: 81}]}}`:                                                          "spec.ports[1].name: Duplicate value: \"a\"",
		`{metadata: {name: x}, spec: {ports: [{port: 80, protocol: ICMP}]}}`:                                                                        "Unsupported value: \"ICMP\"",
		`{metadata: {name: x}, spec: {ports: [{port: 80, targetPort: "not a port"}]}}`:                                                              "spec.ports[0].targetPort: Invalid value: \"not a port\"",
		`{metadata: {name: x}, spec: {type: ExternalName, ports: [{port: 80}]}}`:                                                                    "spec.externalName: Required value",
		`{metadata: {name: x}, spec: {type: Balancer, ports: [{port: 80}]}}`:                                                                        "spec.type: Unsupported value: \"Balancer\"",
		`{metadata: {name: x}, spec: {type: LoadBalancer, clusterIP: None, ports: [{port: 80}]}}`:                                                   "may not be set to 'None' for LoadBalancer services",
		`{metadata: {name: x}, spec: {externalIPs: [127.0.0.1], ports: [{port: 80}]}}`:                                                              "may not be in the loopback range",
		`{metadata: {name: x}, spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 90000}}, ports: [{port: 80}]}}`: "must be greater than 0 and less than 86400",
		`{metadata: {name: x}, spec: {ipFamilyPolicy: SingleStack, ipFamilies: [IPv4, IPv6], ports: [{port: 80}]}}`:                                 "must be RequireDualStack or PreferDualStack when multiple ipFamilies are specified",
		`{metadata: {name: x}, spec: {ipFamilies: [IPv4], clusterIP: "fd00:10:96::5", ports: [{port: 80}]}}`:                                        "expected an IPv4 value",
		`{metadata: {name: UPPER}, spec: {ports: [{port: 80}]}}`:                                                                                    "metadata.name: Invalid value",
	} {
		_, err := c.client.CoreV1().Services("default").Create(t.Context(), manifest(t, text), metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n  got  %v\n  want %s", text, err, want)
		}
	}
}

func TestServiceChangesItsType(t *testing.T) {
	c := start(t, t.TempDir())
	services := c.client.CoreV1().Services("default")
	s := c.service(t, `{metadata: {name: s}, spec: {ports: [{port: 80}]}}`)
	ip := s.Spec.ClusterIP
	change := func(patch string) (*corev1.Service, error) {
		return services.Patch(t.Context(), "s", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	}
	s, err := change(`{"spec": {"type": "NodePort"}}`)
	must(t, err)
	port := s.Spec.Ports[0].NodePort
	if port == 0 || s.Spec.ClusterIP != ip {
		t.Errorf("as NodePort: %+v", s.Spec)
	}
	s, err = change(`{"spec": {"type": "LoadBalancer"}}`)
	must(t, err)
	if s.Spec.Ports[0].NodePort != port {
		t.Errorf("as LoadBalancer the node port is %d, was %d", s.Spec.Ports[0].NodePort, port)
	}
	if _, err := change(`{"spec": {"clusterIP": "10.96.3.3", "clusterIPs": ["10.96.3.3"]}}`); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "may not change once set") {
		t.Errorf("another cluster IP: %v", err)
	}
	s, err = change(`{"spec": {"type": "ClusterIP"}}`)
	must(t, err)
	if s.Spec.Ports[0].NodePort != 0 || s.Spec.AllocateLoadBalancerNodePorts != nil || s.Spec.ExternalTrafficPolicy != "" {
		t.Errorf("as ClusterIP: %+v", s.Spec)
	}
	// The number is free again.
	c.service(t, fmt.Sprintf(`{metadata: {name: other}, spec: {type: NodePort, ports: [{port: 80, nodePort: %d}]}}`, port))
	s, err = change(`{"spec": {"ipFamilyPolicy": "RequireDualStack"}}`)
	must(t, err)
	if len(s.Spec.ClusterIPs) != 2 {
		t.Errorf("as dual-stack: %v", s.Spec.ClusterIPs)
	}
	s, err = change(`{"spec": {"ipFamilyPolicy": "SingleStack"}}`)
	must(t, err)
	if !slices.Equal(s.Spec.ClusterIPs, []string{ip}) {
		t.Errorf("as single-stack again: %v", s.Spec.ClusterIPs)
	}
	s, err = change(`{"spec": {"type": "ExternalName", "externalName": "x.example.com"}}`)
	must(t, err)
	if s.Spec.ClusterIP != "" || len(s.Spec.ClusterIPs) != 0 {
		t.Errorf("as ExternalName: %+v", s.Spec)
	}
	// And a PUT of the manifest that made it keeps what was allocated.
	made := c.service(t, `{metadata: {name: put}, spec: {type: NodePort, ports: [{port: 80}]}}`)
	again := manifest(t, `{metadata: {name: put}, spec: {type: NodePort, ports: [{port: 80}]}}`)
	put, err := services.Update(t.Context(), again, metav1.UpdateOptions{})
	must(t, err)
	if put.Spec.ClusterIP != made.Spec.ClusterIP || put.Spec.Ports[0].NodePort != made.Spec.Ports[0].NodePort {
		t.Errorf("PUT changed %+v into %+v", made.Spec, put.Spec)
	}
}

func TestAddressesAreNeverSharedAndComeBack(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	const n = 200
	var wg sync.WaitGroup
	var mu sync.Mutex
	ips, ports := map[string]bool{}, map[int32]bool{}
	for i := range n {
		wg.Go(func() {
			s, err := c.client.CoreV1().Services("default").Create(t.Context(),
				manifest(t, fmt.Sprintf(`{metadata: {name: s%d}, spec: {type: NodePort, ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]}}`, i)), metav1.CreateOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, ip := range s.Spec.ClusterIPs {
				ips[ip] = true
			}
			ports[s.Spec.Ports[0].NodePort] = true
		})
	}
	wg.Wait()
	if len(ips) != 2*n || len(ports) != n {
		t.Errorf("%d different addresses and %d ports for %d Services", len(ips), len(ports), n)
	}
	recorded := func() int {
		list, err := c.client.NetworkingV1().IPAddresses().List(t.Context(), metav1.ListOptions{})
		must(t, err)
		return len(list.Items)
	}
	if got := recorded(); got != 2*n+2 {
		t.Errorf("%d records of %d addresses", got, 2*n+2)
	}
	// A dry run takes nothing.
	dry := manifest(t, `{metadata: {name: dry}, spec: {clusterIP: 10.97.0.9, ports: [{port: 80}]}}`)
	_, err := c.client.CoreV1().Services("default").Create(t.Context(), dry, metav1.CreateOptions{DryRun: []string{"All"}})
	must(t, err)
	c.service(t, `{metadata: {name: wet}, spec: {clusterIP: 10.97.0.9, ports: [{port: 80}]}}`)

	// What was taken is known after a restart.
	c.stop()
	c = start(t, dir)
	_, err = c.client.CoreV1().Services("default").Create(t.Context(), dry, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "already allocated") {
		t.Errorf("after a restart: %v", err)
	}
	must(t, c.client.CoreV1().Services("default").Delete(t.Context(), "wet", metav1.DeleteOptions{}))
	_, err = c.client.CoreV1().Services("default").Create(t.Context(), dry, metav1.CreateOptions{})
	must(t, err)
	if got := recorded(); got != 2*n+3 {
		t.Errorf("%d records of %d addresses", got, 2*n+3)
	}
}
