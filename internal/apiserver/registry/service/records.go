package service

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"viaduct.dev/viaduct/internal/apiserver/registry"
)

// managedBy marks the IPAddress objects that are the API server's own.
const managedBy = "ipallocator.k8s.io"

// ipAddresses keeps the IPAddress objects of cluster IPs.
type ipAddresses struct {
	env  *registry.Env
	once sync.Once
	c    kubernetes.Interface
	err  error
}

func (r *ipAddresses) client() (kubernetes.Interface, error) {
	r.once.Do(func() { r.c, r.err = registry.Client(r.env.Loopback) })
	return r.c, r.err
}

func record(s *corev1.Service, ip netip.Addr) *networkingv1.IPAddress {
	family := "IPv4"
	if ip.Is6() {
		family = "IPv6"
	}
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name:   ip.String(),
			Labels: map[string]string{networkingv1.LabelIPAddressFamily: family, networkingv1.LabelManagedBy: managedBy},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{
			Resource: "services", Namespace: s.Namespace, Name: s.Name,
		}},
	}
}

// ensure makes the objects of addresses that a Service has just been given.
func (r *ipAddresses) ensure(ctx context.Context, s *corev1.Service, ips []netip.Addr) error {
	if len(ips) == 0 {
		return nil
	}
	c, err := r.client()
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	for _, ip := range ips {
		_, err := c.NetworkingV1().IPAddresses().Create(ctx, record(s, ip), metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return apierrors.NewInternalError(fmt.Errorf("record the address %s: %w", ip, err))
		}
	}
	return nil
}

// remove deletes the objects of addresses that are free again. One that stays
// behind is found at the next start.
func (r *ipAddresses) remove(ips []netip.Addr) {
	c, err := r.client()
	if err != nil {
		return
	}
	// The request that led here may be over.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, ip := range ips {
		if err := c.NetworkingV1().IPAddresses().Delete(ctx, ip.String(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			r.env.Log.Warn("an address's record was not removed", "address", ip, "err", err)
		}
	}
}

// load counts what the stored Services hold, and repairs the records of their
// addresses: a crash may have left one too many or one too few.
func (a *allocation) load(ctx context.Context) error {
	c, err := a.records.client()
	if err != nil {
		return err
	}
	services, err := c.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	owners := map[string]*corev1.Service{}
	for i := range services.Items {
		s := &services.Items[i]
		h := holdings(s)
		for _, ip := range h.ips {
			ips := a.ips[familyOf(ip.String())]
			if ips == nil || ips.Allocate(ip) != nil {
				a.env.Log.Error("a cluster IP is out of range or held twice", "service", s.Namespace+"/"+s.Name, "address", ip)
			}
			owners[ip.String()] = s
		}
		for _, p := range h.ports {
			if a.ports.Allocate(p) != nil {
				a.env.Log.Error("a node port is out of range or held twice", "service", s.Namespace+"/"+s.Name, "port", p)
			}
		}
	}
	if err := a.repairRecords(ctx, c, owners); err != nil {
		return err
	}
	a.loaded = true
	return nil
}

func (a *allocation) repairRecords(ctx context.Context, c kubernetes.Interface, owners map[string]*corev1.Service) error {
	records, err := c.NetworkingV1().IPAddresses().List(ctx, metav1.ListOptions{LabelSelector: networkingv1.LabelManagedBy + "=" + managedBy})
	if err != nil {
		return fmt.Errorf("list IP addresses: %w", err)
	}
	recorded := map[string]bool{}
	for _, r := range records.Items {
		recorded[r.Name] = true
		if owners[r.Name] == nil {
			if ip, err := netip.ParseAddr(r.Name); err == nil {
				a.records.remove([]netip.Addr{ip})
			}
		}
	}
	for text, s := range owners {
		if !recorded[text] {
			if err := a.records.ensure(ctx, s, []netip.Addr{netip.MustParseAddr(text)}); err != nil {
				return err
			}
		}
	}
	return nil
}
