// Package loadbalancer gives Services of type LoadBalancer their addresses, out
// of a pool on the nodes' own network. Who answers for an address there is
// package announce's concern.
package loadbalancer

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"viaduct.dev/viaduct/internal/controllers/loop"
)

// Class is the loadBalancerClass of Services that are ours; those without a
// class are too.
const Class = "viaduct.dev/box"

// finalizer keeps a Service until its address has been given back (upstream's
// name).
const finalizer = "service.kubernetes.io/load-balancer-cleanup"

// conditionType tells whether a Service has the addresses that it asks for.
const conditionType = "viaduct.dev/LoadBalancerAddress"

// Config is what the controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  record.EventRecorder
	// Pools are the ranges to give addresses from.
	Pools []netip.Prefix
	Log   *slog.Logger
}

type controller struct {
	Config
	services corelisters.ServiceLister
	loop     *loop.Loop

	mu      sync.Mutex
	pool    *pool
	waiting map[loop.Key]bool // for an address to be given back
}

// Run gives addresses until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	c := &controller{Config: cfg, services: cfg.Informers.Core().V1().Services().Lister(), pool: newPool(cfg.Pools), waiting: map[loop.Key]bool{}}
	c.loop = loop.New("loadbalancer", cfg.Log, c.reconcile)
	services, err := cfg.Informers.Core().V1().Services().Informer().AddEventHandler(c.loop.Handler())
	if err != nil {
		return fmt.Errorf("loadbalancer controller: %w", err)
	}
	cfg.Informers.Start(ctx.Done())
	if !cache.WaitFor(ctx, "", services.HasSyncedChecker()) {
		return nil
	}
	// What was given before is held before anything new is given.
	all, err := c.services.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("loadbalancer controller: %w", err)
	}
	for _, s := range all {
		if wants(s) {
			c.holdStatus(s)
		}
	}
	c.loop.Run(ctx, 1)
	return nil
}

func wants(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.DeletionTimestamp == nil &&
		(s.Spec.LoadBalancerClass == nil || *s.Spec.LoadBalancerClass == Class)
}

func foreign(s *corev1.Service) bool {
	return s.Spec.LoadBalancerClass != nil && *s.Spec.LoadBalancerClass != Class
}

// holdStatus holds the addresses that a Service's status tells.
func (c *controller) holdStatus(s *corev1.Service) []netip.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	var held []netip.Addr
	for _, in := range s.Status.LoadBalancer.Ingress {
		if ip, err := netip.ParseAddr(in.IP); err == nil && c.pool.hold(ip, loop.KeyOf(s).String()) == nil {
			held = append(held, ip)
		}
	}
	return held
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	s, err := c.services.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		c.giveBack(key)
		return nil
	}
	if err != nil {
		return err
	}
	if !wants(s) {
		return c.cleanUp(ctx, key, s)
	}
	if !slices.Contains(s.Finalizers, finalizer) {
		if s, err = c.patch(ctx, s, func(s *corev1.Service) { s.Finalizers = append(s.Finalizers, finalizer) }); err != nil {
			return err
		}
	}
	return c.give(ctx, key, s)
}

// cleanUp gives back what a Service has that is no load balancer of ours any
// more, and lets it go.
func (c *controller) cleanUp(ctx context.Context, key loop.Key, s *corev1.Service) error {
	c.giveBack(key)
	if !slices.Contains(s.Finalizers, finalizer) || foreign(s) {
		return nil
	}
	_, err := c.patch(ctx, s, func(s *corev1.Service) {
		s.Finalizers = slices.DeleteFunc(s.Finalizers, func(f string) bool { return f == finalizer })
		s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
		apimeta.RemoveStatusCondition(&s.Status.Conditions, conditionType)
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (c *controller) giveBack(key loop.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pool.release(key.String())
	delete(c.waiting, key)
	for w := range c.waiting {
		c.loop.Add(w)
	}
}

// give finds an address of each of the Service's families.
func (c *controller) give(ctx context.Context, key loop.Key, s *corev1.Service) error {
	have := c.holdStatus(s)
	ips, problem := c.choose(key, s, have)
	c.mu.Lock()
	c.pool.release(key.String(), ips...)
	if problem != nil {
		c.waiting[key] = true
	} else {
		delete(c.waiting, key)
	}
	c.mu.Unlock()

	ingress := []corev1.LoadBalancerIngress{}
	for _, ip := range ips {
		ingress = append(ingress, corev1.LoadBalancerIngress{IP: ip.String(), IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)})
	}
	condition := metav1.Condition{Type: conditionType, Status: metav1.ConditionTrue, Reason: "Assigned", Message: "the Service has its addresses", ObservedGeneration: s.Generation}
	if problem != nil {
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, "Pending", problem.Error()
	}
	told := apimeta.FindStatusCondition(s.Status.Conditions, conditionType)
	if problem != nil && (told == nil || told.Message != problem.Error()) {
		c.Recorder.Eventf(s, corev1.EventTypeWarning, "AllocationFailed", "No load-balancer address: %v", problem)
	}
	changed, err := c.patch(ctx, s, func(s *corev1.Service) {
		if len(ingress) > 0 || len(s.Status.LoadBalancer.Ingress) > 0 {
			s.Status.LoadBalancer.Ingress = ingress
		}
		apimeta.SetStatusCondition(&s.Status.Conditions, condition)
	})
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	if !equality.Semantic.DeepEqual(changed.Status.LoadBalancer, s.Status.LoadBalancer) && len(ips) > 0 {
		c.Recorder.Eventf(s, corev1.EventTypeNormal, "EnsuredLoadBalancer", "Assigned %v", ips)
	}
	return nil
}

// choose keeps the addresses that a Service has and takes those that it lacks:
// the one that it asks for, or any.
func (c *controller) choose(key loop.Key, s *corev1.Service, have []netip.Addr) (ips []netip.Addr, problem error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked, askedErr := netip.ParseAddr(s.Spec.LoadBalancerIP)
	if s.Spec.LoadBalancerIP != "" && askedErr != nil {
		return nil, fmt.Errorf("spec.loadBalancerIP %q is no IP address", s.Spec.LoadBalancerIP)
	}
	for _, family := range s.Spec.IPFamilies {
		v6 := family == corev1.IPv6Protocol
		if asked.IsValid() && asked.Is6() == v6 {
			if err := c.pool.hold(asked, key.String()); err != nil {
				problem = c.explain(asked, err)
				continue
			}
			ips = append(ips, asked)
			continue
		}
		i := slices.IndexFunc(have, func(ip netip.Addr) bool { return ip.Is6() == v6 })
		if i >= 0 {
			ips = append(ips, have[i])
			continue
		}
		ip, err := c.pool.take(v6, key.String())
		if err != nil {
			problem = fmt.Errorf("%s: %w (pool %v)", family, err, c.Pools)
			continue
		}
		ips = append(ips, ip)
	}
	return ips, problem
}

func (c *controller) explain(asked netip.Addr, err error) error {
	switch err {
	case errTaken:
		return fmt.Errorf("spec.loadBalancerIP %s is in use by Service %s", asked, c.pool.users[asked])
	case errOutside:
		return fmt.Errorf("spec.loadBalancerIP %s is not in the pool %v", asked, c.Pools)
	}
	return err
}

// patch writes what change does to a Service, through its status: finalizers
// arrive that way too.
func (c *controller) patch(ctx context.Context, s *corev1.Service, change func(*corev1.Service)) (*corev1.Service, error) {
	changed := s.DeepCopy()
	change(changed)
	if equality.Semantic.DeepEqual(changed, s) {
		return s, nil
	}
	body := map[string]any{
		"metadata": map[string]any{"resourceVersion": s.ResourceVersion, "finalizers": changed.Finalizers},
		"status":   map[string]any{"loadBalancer": changed.Status.LoadBalancer, "conditions": changed.Status.Conditions},
	}
	if len(changed.Status.LoadBalancer.Ingress) == 0 {
		body["status"].(map[string]any)["loadBalancer"] = map[string]any{"ingress": nil}
	}
	patch, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return c.Client.CoreV1().Services(s.Namespace).Patch(ctx, s.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
}
