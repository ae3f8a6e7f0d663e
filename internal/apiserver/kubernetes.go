package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

const (
	selfName     = "kubernetes"
	selfPort     = 443
	selfPortName = "https"

	// selfInterval is how soon default/kubernetes is back after somebody has
	// deleted or changed it, at the latest; as in kube-apiserver.
	selfInterval = 10 * time.Second
)

// self is the Service default/kubernetes, by which Pods find the API: the first
// address of each range, and behind it the addresses where the API is reached.
type self struct {
	families  []corev1.IPFamily
	clusterIP []string
	addresses map[corev1.IPFamily][]string
	port      int32
}

// newSelf plans default/kubernetes for the families that have both a range and
// an address.
func newSelf(cfg Config) self {
	s := self{addresses: map[corev1.IPFamily][]string{}, port: int32(cfg.AdvertisePort)}
	for _, addr := range cfg.AdvertiseAddresses {
		family := familyOf(addr)
		s.addresses[family] = append(s.addresses[family], addr.String())
	}
	for _, cidr := range cfg.ServiceCIDRs {
		if family := familyOf(cidr.Addr()); len(s.addresses[family]) > 0 {
			s.families = append(s.families, family)
			s.clusterIP = append(s.clusterIP, cidr.Masked().Addr().Next().String())
		}
	}
	return s
}

// ensure makes the Service, its EndpointSlices and its Endpoints, and corrects
// what an earlier start with other addresses has left.
func (s self) ensure(ctx context.Context, client kubernetes.Interface) error {
	if len(s.families) == 0 {
		return nil
	}
	if err := s.ensureService(ctx, client); err != nil {
		return fmt.Errorf("service default/kubernetes: %w", err)
	}
	for i, family := range s.families {
		if err := s.ensureSlice(ctx, client, i, family); err != nil {
			return fmt.Errorf("endpoint slice of default/kubernetes: %w", err)
		}
	}
	if err := s.ensureEndpoints(ctx, client); err != nil {
		return fmt.Errorf("endpoints default/kubernetes: %w", err)
	}
	return nil
}

// keep ensures again and again until ctx ends.
func (s self) keep(ctx context.Context, client kubernetes.Interface, every time.Duration, log *slog.Logger) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := s.ensure(ctx, client); err != nil && ctx.Err() == nil {
			log.Warn("the API's own Service could not be kept", "err", err)
		}
	}
}

func (s self) ensureService(ctx context.Context, client kubernetes.Interface) error {
	policy := corev1.IPFamilyPolicySingleStack
	if len(s.families) > 1 {
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	want := &corev1.Service{
		ObjectMeta: s.meta(selfName, map[string]string{"component": "apiserver", "provider": "kubernetes"}),
		Spec: corev1.ServiceSpec{
			Type:            corev1.ServiceTypeClusterIP,
			ClusterIP:       s.clusterIP[0],
			ClusterIPs:      s.clusterIP,
			IPFamilies:      s.families,
			IPFamilyPolicy:  &policy,
			SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{{
				Name: selfPortName, Protocol: corev1.ProtocolTCP, Port: selfPort, TargetPort: intstr.FromInt32(s.port),
			}},
		},
	}
	services := client.CoreV1().Services(metav1.NamespaceDefault)
	have, err := services.Get(ctx, selfName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = services.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil || equality.Semantic.DeepEqual(have.Spec.Ports, want.Spec.Ports) {
		return err
	}
	have.Spec.Ports = want.Spec.Ports
	_, err = services.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

func (s self) ensureSlice(ctx context.Context, client kubernetes.Interface, i int, family corev1.IPFamily) error {
	name, addressType := selfName, discoveryv1.AddressTypeIPv4
	if family == corev1.IPv6Protocol {
		addressType = discoveryv1.AddressTypeIPv6
	}
	if i > 0 {
		name = selfName + "-secondary"
	}
	want := &discoveryv1.EndpointSlice{
		ObjectMeta:  s.meta(name, map[string]string{discoveryv1.LabelServiceName: selfName}),
		AddressType: addressType,
		Ports: []discoveryv1.EndpointPort{{
			Name: ptr.To(selfPortName), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To(s.port),
		}},
	}
	for _, address := range s.addresses[family] {
		want.Endpoints = append(want.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{address},
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
		})
	}
	slices := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	have, err := slices.Get(ctx, name, metav1.GetOptions{})
	if err == nil && have.AddressType != addressType { // which cannot be changed
		if err := slices.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return err
		}
		have, err = slices.Get(ctx, name, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		_, err = slices.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil || equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) && equality.Semantic.DeepEqual(have.Ports, want.Ports) {
		return err
	}
	have.Endpoints, have.Ports = want.Endpoints, want.Ports
	_, err = slices.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

func (s self) ensureEndpoints(ctx context.Context, client kubernetes.Interface) error {
	subset := corev1.EndpointSubset{
		Ports: []corev1.EndpointPort{{Name: selfPortName, Protocol: corev1.ProtocolTCP, Port: s.port}},
	}
	for _, address := range s.addresses[s.families[0]] {
		subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: address})
	}
	want := &corev1.Endpoints{
		ObjectMeta: s.meta(selfName, map[string]string{discoveryv1.LabelSkipMirror: "true"}),
		Subsets:    []corev1.EndpointSubset{subset},
	}
	endpoints := client.CoreV1().Endpoints(metav1.NamespaceDefault)
	have, err := endpoints.Get(ctx, selfName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = endpoints.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil || equality.Semantic.DeepEqual(have.Subsets, want.Subsets) {
		return err
	}
	have.Subsets = want.Subsets
	_, err = endpoints.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

func (s self) meta(name string, labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: name, Labels: labels}
}

func familyOf(addr netip.Addr) corev1.IPFamily {
	if addr.Unmap().Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}
