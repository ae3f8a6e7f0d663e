package service

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"

	"viaduct.dev/viaduct/internal/allocator"
	"viaduct.dev/viaduct/internal/apiserver/registry"
)

// allocation is what all Services hold.
type allocation struct {
	env      *registry.Env
	families []corev1.IPFamily // of the cluster, the primary first
	records  *ipAddresses

	mu     sync.Mutex
	loaded bool // filled from the stored Services
	ips    map[corev1.IPFamily]*allocator.Addresses
	ports  *allocator.Ports
}

func newAllocation(env *registry.Env) (*allocation, error) {
	a := &allocation{env: env, ips: map[corev1.IPFamily]*allocator.Addresses{}, records: &ipAddresses{env: env}}
	for _, cidr := range env.ServiceCIDRs {
		ips, err := allocator.NewAddresses(cidr)
		if err != nil {
			return nil, fmt.Errorf("service-cluster-ip-range: %w", err)
		}
		family := familyOf(cidr.Addr().String())
		if a.ips[family] != nil {
			return nil, fmt.Errorf("service-cluster-ip-range: two ranges of family %s", family)
		}
		a.ips[family] = ips
		a.families = append(a.families, family)
	}
	ports, err := allocator.NewPorts(env.NodePorts.Base, env.NodePorts.Size)
	if err != nil {
		return nil, fmt.Errorf("service-node-port-range: %w", err)
	}
	a.ports = ports
	return a, nil
}

// create settles what a new Service holds.
func (a *allocation) create(ctx context.Context, s *corev1.Service, dryRun bool) (genericregistry.FinishFunc, error) {
	normalizeClusterIPs(s, nil)
	return a.settle(ctx, s, nil, dryRun)
}

// update settles what a changed Service holds, and gives back what it does not
// hold any more once the change is stored.
func (a *allocation) update(ctx context.Context, s, old *corev1.Service, dryRun bool) (genericregistry.FinishFunc, error) {
	carryAllocated(s, old)
	normalizeClusterIPs(s, old)
	dropForType(s, old)
	return a.settle(ctx, s, old, dryRun)
}

func (a *allocation) settle(ctx context.Context, s, old *corev1.Service, dryRun bool) (genericregistry.FinishFunc, error) {
	if errs := settleFamilies(s, old, a.families); len(errs) > 0 {
		return nil, invalid(s, errs)
	}
	t, err := a.take(s, old, dryRun)
	if err != nil {
		return nil, err
	}
	if dryRun {
		return func(context.Context, bool) {}, nil
	}
	undo := func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		t.undo()
	}
	if err := a.records.ensure(ctx, s, t.ips); err != nil {
		undo()
		return nil, err
	}
	return func(_ context.Context, success bool) {
		if success {
			a.release(t.was.without(holdings(s)))
			return
		}
		a.records.remove(t.ips)
		undo()
	}, nil
}

// take reserves what a Service needs, all of it or nothing; a dry run gives it
// back at once.
func (a *allocation) take(s, old *corev1.Service, dryRun bool) (*taking, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.loaded {
		return nil, apierrors.NewServiceUnavailable("cluster IPs and node ports are still being counted; try again")
	}
	t := &taking{a: a, was: holdings(old)}
	errs := t.clusterIPs(s)
	errs = append(errs, t.nodePorts(s)...)
	errs = append(errs, t.healthCheckPort(s)...)
	if len(errs) > 0 || dryRun {
		t.undo()
	}
	if len(errs) > 0 {
		return nil, invalid(s, errs)
	}
	return t, nil
}

// deleted gives back all that a Service held.
func (a *allocation) deleted(s *corev1.Service) {
	a.release(holdings(s))
}

// release gives numbers back, after the records that name their owner are gone.
func (a *allocation) release(h held) {
	a.records.remove(h.ips)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ip := range h.ips {
		if ips := a.ips[familyOf(ip.String())]; ips != nil {
			ips.Release(ip)
		}
	}
	for _, p := range h.ports {
		a.ports.Release(p)
	}
}

func invalid(s *corev1.Service, errs errorList) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), s.Name, errs)
}

// held is what a Service holds of the ranges.
type held struct {
	ips   []netip.Addr
	ports []int
}

func holdings(s *corev1.Service) held {
	var h held
	if s == nil {
		return h
	}
	if needsClusterIP(s) && !headless(s) {
		for _, text := range s.Spec.ClusterIPs {
			if ip, err := netip.ParseAddr(text); err == nil {
				h.ips = append(h.ips, ip)
			}
		}
	}
	for _, p := range s.Spec.Ports {
		if n := int(p.NodePort); n != 0 && !slices.Contains(h.ports, n) {
			h.ports = append(h.ports, n)
		}
	}
	if n := int(s.Spec.HealthCheckNodePort); n != 0 && !slices.Contains(h.ports, n) {
		h.ports = append(h.ports, n)
	}
	return h
}

func (h held) without(other held) held {
	var rest held
	for _, ip := range h.ips {
		if !slices.Contains(other.ips, ip) {
			rest.ips = append(rest.ips, ip)
		}
	}
	for _, p := range h.ports {
		if !slices.Contains(other.ports, p) {
			rest.ports = append(rest.ports, p)
		}
	}
	return rest
}

// taking is one write's allocations, which can be undone. It runs under the
// allocation's lock.
type taking struct {
	a     *allocation
	was   held // what the Service held before
	ips   []netip.Addr
	ports []int
}

func (t *taking) undo() {
	for _, ip := range t.ips {
		t.a.ips[familyOf(ip.String())].Release(ip)
	}
	for _, p := range t.ports {
		t.a.ports.Release(p)
	}
}

// clusterIPs takes an address of each of the Service's families.
func (t *taking) clusterIPs(s *corev1.Service) errorList {
	if !needsClusterIP(s) || headless(s) {
		return nil
	}
	path := field.NewPath("spec", "clusterIPs")
	var errs errorList
	for i, family := range s.Spec.IPFamilies {
		ips := t.a.ips[family]
		if ips == nil {
			continue // validation refuses it
		}
		if i < len(s.Spec.ClusterIPs) {
			text := s.Spec.ClusterIPs[i]
			ip, err := netip.ParseAddr(text)
			if err != nil || slices.Contains(t.was.ips, ip) {
				continue
			}
			switch err := ips.Allocate(ip); {
			case err == nil:
				t.ips = append(t.ips, ip)
			case errors.Is(err, allocator.ErrNotInRange):
				errs = append(errs, field.Invalid(path, s.Spec.ClusterIPs, fmt.Sprintf(
					"failed to allocate IP %s: the provided IP (%s) is not in the valid range. The range of valid IPs is %s", text, text, ips.Prefix())))
			default:
				errs = append(errs, field.Invalid(path, s.Spec.ClusterIPs, fmt.Sprintf(
					"failed to allocate IP %s: provided IP is already allocated", text)))
			}
			continue
		}
		ip, err := ips.AllocateNext(rand.Uint64N)
		if err != nil {
			errs = append(errs, field.InternalError(path, fmt.Errorf("failed to allocate a serviceIP: %s: %w", ips.Prefix(), err)))
			continue
		}
		t.ips = append(t.ips, ip)
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, ip.String())
	}
	if len(s.Spec.ClusterIPs) > 0 {
		s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	}
	return errs
}

// nodePorts takes the ports that are asked for, and one for each that needs it.
// Ports of one Service may share a number over different protocols.
func (t *taking) nodePorts(s *corev1.Service) errorList {
	if !mayHaveNodePorts(s) {
		return nil
	}
	path := field.NewPath("spec", "ports")
	var errs errorList
	for i, p := range s.Spec.Ports {
		if n := int(p.NodePort); n != 0 {
			if err := t.port(n); err != nil {
				errs = append(errs, t.portError(path.Index(i).Child("nodePort"), n, err))
			}
		}
	}
	if !needsNodePorts(s) || len(errs) > 0 {
		return errs
	}
	numbers := map[int32]int32{} // of a port, for its other protocols
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			numbers[p.Port] = p.NodePort
		}
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort != 0 {
			continue
		}
		if n := numbers[p.Port]; n != 0 && !usesPort(s, n, p.Protocol) {
			p.NodePort = n
			continue
		}
		n, err := t.a.ports.AllocateNext(rand.Uint64N)
		if err != nil {
			return append(errs, field.InternalError(path.Index(i).Child("nodePort"), fmt.Errorf("failed to allocate a nodePort: %w", err)))
		}
		t.ports = append(t.ports, n)
		p.NodePort = int32(n)
		numbers[p.Port] = p.NodePort
	}
	return errs
}

func usesPort(s *corev1.Service, n int32, protocol corev1.Protocol) bool {
	return slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.NodePort == n && p.Protocol == protocol })
}

// port takes a number unless the Service has it already.
func (t *taking) port(n int) error {
	if slices.Contains(t.was.ports, n) || slices.Contains(t.ports, n) {
		return nil
	}
	if err := t.a.ports.Allocate(n); err != nil {
		return err
	}
	t.ports = append(t.ports, n)
	return nil
}

func (t *taking) portError(path *field.Path, n int, err error) *field.Error {
	if errors.Is(err, allocator.ErrNotInRange) {
		return field.Invalid(path, n, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", t.a.ports.First(), t.a.ports.Last()))
	}
	return field.Invalid(path, n, "provided port is already allocated")
}

func (t *taking) healthCheckPort(s *corev1.Service) errorList {
	if !needsHealthCheckNodePort(s) {
		return nil
	}
	path := field.NewPath("spec", "healthCheckNodePort")
	if n := int(s.Spec.HealthCheckNodePort); n != 0 {
		if err := t.port(n); err != nil {
			return errorList{t.portError(path, n, err)}
		}
		return nil
	}
	n, err := t.a.ports.AllocateNext(rand.Uint64N)
	if err != nil {
		return errorList{field.InternalError(path, fmt.Errorf("failed to allocate a healthCheckNodePort: %w", err))}
	}
	t.ports = append(t.ports, n)
	s.Spec.HealthCheckNodePort = int32(n)
	return nil
}
