package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Row healthCheckNodePort of features.md: 200 while an endpoint is ready on the
// node, else 503, with kube-proxy's body and header.
func TestAHealthCheckNodePortSaysWhetherTheNodeHasEndpoints(t *testing.T) {
	n := newNetwork(t)
	local := func(port int32) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceExternalTrafficPolicyLocal, port
		}
	}
	client := &http.Client{Transport: &http.Transport{DialContext: n.outside.DialContext, DisableKeepAlives: true}}
	// told waits for an answer such as "200 2"; "" is none.
	told := func(port int, want string) {
		t.Helper()
		got := ""
		n.await(t, func() bool {
			for _, host := range []string{"172.20.0.11", "[fd00:172:20::b]"} {
				got = ""
				resp, err := client.Get(fmt.Sprintf("http://%s:%d/", host, port))
				if err == nil {
					var body struct {
						Service             struct{ Namespace, Name string }
						LocalEndpoints      int
						ServiceProxyHealthy bool
					}
					must(t, json.NewDecoder(resp.Body).Decode(&body))
					resp.Body.Close()
					weight := resp.Header.Get("X-Load-Balancing-Endpoint-Weight")
					if body.Service.Namespace != "default" || body.Service.Name != "web" || !body.ServiceProxyHealthy || weight != fmt.Sprint(body.LocalEndpoints) {
						t.Fatalf("body %+v, header %q", body, weight)
					}
					got = fmt.Sprintf("%d %d", resp.StatusCode, body.LocalEndpoints)
				}
				if got != want {
					return false
				}
			}
			return true
		})
	}
	n.service(t, "100", local(32000))
	told(32000, "503 0")
	n.endpoints(t, "200", []string{"10.244.0.2", "10.244.0.6", "10.244.9.2"}, nil)
	told(32000, "200 2")
	n.endpoints(t, "300", []string{"10.244.9.2"}, nil)
	told(32000, "503 0")
	n.service(t, "400", local(32001))
	told(32000, "")
	told(32001, "503 0")
	n.stop()
	told(32001, "")
	n.start()
	told(32001, "503 0")
	n.service(t, "500", nil)
	told(32001, "")
}

// The younger of two Services that ask for one address is told by an event who
// has it.
func TestAServiceIsToldWhoHasItsAddress(t *testing.T) {
	n := newNetwork(t)
	n.service(t, "100", func(s *corev1.Service) { s.CreationTimestamp = metav1.Unix(100, 0) })
	younger := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "younger", ResourceVersion: "200", CreationTimestamp: metav1.Unix(200, 0)},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.2", ClusterIPs: []string{"10.96.0.2"},
			ExternalIPs: []string{"192.0.2.7"}, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
	must(t, n.client.Tracker().Add(younger))
	n.programmed(t, 200)
	select {
	case got := <-n.events.Events:
		if got != "Warning AddressConflict 192.0.2.7:80/tcp is held by the older Service default/web: this one is not reached there" {
			t.Error(got)
		}
	case <-time.After(5 * time.Second):
		t.Error("nobody was told")
	}
}
