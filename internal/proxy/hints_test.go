package proxy

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Rows hints.forZones and trafficDistribution of features.md: a node's own zone
// is preferred, and what that is follows the node's label while the proxy runs.
func TestHintsKeepTrafficInTheNodesZone(t *testing.T) {
	n := newNetwork(t)
	for i, ns := range n.pods {
		echo(t, ns, fmt.Sprintf("pod-%d", i))
	}
	n.service(t, "100", nil)
	name, port, proto := "tcp", int32(8080), corev1.ProtocolTCP
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-4", ResourceVersion: "200", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &proto}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.244.0.2"}, Hints: &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}}}},
			{Addresses: []string{"10.244.0.6"}, Hints: &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "b"}}}},
		},
	}
	must(t, n.client.Tracker().Add(slice))
	n.programmed(t, 200)
	// answer waits until ten requests in a row come from just these Pods.
	answer := func(want string) {
		t.Helper()
		n.await(t, func() bool {
			seen := map[string]bool{}
			for range 10 {
				name, _, err := ask(n.outside, "tcp", "172.20.0.11:30080")
				must(t, err)
				seen[name] = true
			}
			return fmt.Sprint(seen) == want
		})
	}
	answer("map[pod-0:true pod-1:true]")
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", Labels: map[string]string{corev1.LabelTopologyZone: "a"}}}
	must(t, n.client.Tracker().Add(node))
	answer("map[pod-0:true]")
	node = node.DeepCopy()
	node.Labels[corev1.LabelTopologyZone] = "b"
	must(t, n.client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("nodes"), node, ""))
	answer("map[pod-1:true]")
	n.stop()
	n.start()
	answer("map[pod-1:true]")
	node = node.DeepCopy()
	node.Labels[corev1.LabelTopologyZone] = "c" // that nobody is meant for
	must(t, n.client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("nodes"), node, ""))
	answer("map[pod-0:true pod-1:true]")
}
