package agent

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
)

func TestNodeThatIsDeletedComesBackAtOnceWithItsRanges(t *testing.T) {
	n := newTestNode(t)
	n.pod("web", serving, "serve", "--http", ":5000")
	n.until("web", "ready", ready)
	nodes := n.client.CoreV1().Nodes()
	for deadline := time.Now().Add(10 * time.Second); ; pause(t.Context(), 5*time.Millisecond) {
		if node, err := nodes.Get(t.Context(), "node-1", metav1.GetOptions{}); err == nil && len(node.Status.Conditions) > 0 {
			break // the agent has said that it is ready and rests
		}
		if time.Now().After(deadline) {
			t.Fatal("the node is not ready")
		}
	}
	n.client.PrependReactor("create", "nodes", func(action clienttesting.Action) (bool, apiruntime.Object, error) {
		action.(clienttesting.CreateAction).GetObject().(*corev1.Node).UID = "second"
		return false, nil, nil
	})
	if err := nodes.Delete(t.Context(), "node-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(3 * time.Second); ; pause(t.Context(), 5*time.Millisecond) {
		node, err := nodes.Get(t.Context(), "node-1", metav1.GetOptions{})
		if err == nil {
			if !slices.Equal(node.Spec.PodCIDRs, []string{"10.244.0.0/24", "fd00:10:244::/64"}) || node.Spec.PodCIDR != "10.244.0.0/24" {
				t.Errorf("its ranges are %q", node.Spec.PodCIDRs)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the node does not come back: %v", err)
		}
	}
	for deadline := time.Now().Add(3 * time.Second); ; pause(t.Context(), 5*time.Millisecond) {
		lease, err := n.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(t.Context(), "node-1", metav1.GetOptions{})
		if err == nil && len(lease.OwnerReferences) == 1 && lease.OwnerReferences[0].UID == "second" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the lease is not the new node's: %+v %v", lease, err)
		}
	}
}
