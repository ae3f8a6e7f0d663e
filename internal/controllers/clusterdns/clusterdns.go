// Package clusterdns keeps the Service kube-system/kube-dns, by which tools and
// Pods find the cluster's DNS, and its endpoints: the DNS server of every ready
// node. A node whose own server is down reaches another's that way.
package clusterdns

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"viaduct.dev/viaduct/internal/controllers/loop"
)

// The Service's names are those that every tool looks for.
const (
	namespace = metav1.NamespaceSystem
	name      = "kube-dns"
	manager   = "clusterdns.viaduct.dev"
	port      = 53
)

// Config is what the controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	// Addresses are the cluster's DNS addresses, the primary family first.
	Addresses []netip.Addr
	Log       *slog.Logger
}

type controller struct{ Config }

// Run keeps the Service and its slices until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	c := &controller{cfg}
	l := loop.New("clusterdns", cfg.Log, c.reconcile)
	all := loop.Each(func(metav1.Object) { l.Add(loop.Key{Namespace: namespace, Name: name}) })
	ours := loop.Each(func(o metav1.Object) {
		if o.GetNamespace() == namespace && (o.GetName() == name || o.GetLabels()[discoveryv1.LabelServiceName] == name) {
			l.Add(loop.Key{Namespace: namespace, Name: name})
		}
	})
	var synced []cache.DoneChecker
	for _, h := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{cfg.Informers.Core().V1().Nodes().Informer(), all},
		{cfg.Informers.Core().V1().Services().Informer(), ours},
		{cfg.Informers.Discovery().V1().EndpointSlices().Informer(), ours},
	} {
		reg, err := h.informer.AddEventHandler(h.handler)
		if err != nil {
			return fmt.Errorf("clusterdns controller: %w", err)
		}
		synced = append(synced, reg.HasSyncedChecker())
	}
	cfg.Informers.Start(ctx.Done())
	if !cache.WaitFor(ctx, "", synced...) {
		return nil
	}
	l.Add(loop.Key{Namespace: namespace, Name: name})
	l.Run(ctx, 1)
	return nil
}

func (c *controller) reconcile(ctx context.Context, _ loop.Key) error {
	if err := c.ensureService(ctx); err != nil {
		return fmt.Errorf("service %s/%s: %w", namespace, name, err)
	}
	nodes, err := c.Informers.Core().V1().Nodes().Lister().List(labels.Everything())
	if err != nil {
		return err
	}
	for _, a := range c.Addresses {
		if err := c.ensureSlice(ctx, a.Is6(), nodes); err != nil {
			return fmt.Errorf("endpoint slices of %s/%s: %w", namespace, name, err)
		}
	}
	return nil
}

func (c *controller) ensureService(ctx context.Context) error {
	if _, err := c.Informers.Core().V1().Services().Lister().Services(namespace).Get(name); !apierrors.IsNotFound(err) {
		return err
	}
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name,
			Labels: map[string]string{"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "KubeDNS"},
		},
		Spec: corev1.ServiceSpec{
			IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicySingleStack),
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: port, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(port)},
				{Name: "dns-tcp", Port: port, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(port)},
			},
		},
	}
	for _, a := range c.Addresses {
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, a.String())
	}
	if len(c.Addresses) > 1 {
		s.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack)
	}
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	_, err := c.Client.CoreV1().Services(namespace).Create(ctx, s, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (c *controller) ensureSlice(ctx context.Context, v6 bool, nodes []*corev1.Node) error {
	want := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name + "-ipv4",
			Labels: map[string]string{discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: manager},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{
			{Name: ptr.To("dns"), Port: ptr.To[int32](port), Protocol: ptr.To(corev1.ProtocolUDP)},
			{Name: ptr.To("dns-tcp"), Port: ptr.To[int32](port), Protocol: ptr.To(corev1.ProtocolTCP)},
		},
	}
	if v6 {
		want.Name, want.AddressType = name+"-ipv6", discoveryv1.AddressTypeIPv6
	}
	for _, n := range nodes {
		if a, ok := address(n, v6); ok {
			ready := isReady(n)
			want.Endpoints = append(want.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{a}, NodeName: &n.Name,
				Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready, Terminating: ptr.To(false)},
				TargetRef:  &corev1.ObjectReference{Kind: "Node", Name: n.Name, UID: n.UID},
			})
		}
	}
	slices.SortFunc(want.Endpoints, func(a, b discoveryv1.Endpoint) int { return cmp.Compare(*a.NodeName, *b.NodeName) })

	client := c.Client.DiscoveryV1().EndpointSlices(namespace)
	have, err := c.Informers.Discovery().V1().EndpointSlices().Lister().EndpointSlices(namespace).Get(want.Name)
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil || equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) && equality.Semantic.DeepEqual(have.Ports, want.Ports) {
		return err
	}
	changed := have.DeepCopy()
	changed.Endpoints, changed.Ports = want.Endpoints, want.Ports
	_, err = client.Update(ctx, changed, metav1.UpdateOptions{})
	return err
}

func address(n *corev1.Node, v6 bool) (string, bool) {
	for _, a := range n.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if err == nil && a.Type == corev1.NodeInternalIP && ip.Is6() == v6 {
			return a.Address, true
		}
	}
	return "", false
}

func isReady(n *corev1.Node) bool {
	for _, condition := range n.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}
