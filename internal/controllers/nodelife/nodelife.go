// Package nodelife watches whether nodes are alive.
//
// An agent renews its node's lease. When it has not for the grace period, the
// node's Ready condition becomes Unknown, it is tainted, and its Pods are marked
// not ready so that they leave their Services; after a while they are deleted
// (taint node.kubernetes.io/unreachable, 300 s unless a Pod tolerates it
// otherwise). Pods of nodes that are gone are removed.
package nodelife

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	coordinationlisters "k8s.io/client-go/listers/coordination/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	corev1helpers "k8s.io/component-helpers/scheduling/corev1"

	"viaduct.dev/viaduct/internal/controllers/loop"
)

// Config is what the controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  record.EventRecorder
	// GracePeriod is how old a lease may be; 0 means 40 s, as upstream's.
	GracePeriod time.Duration
	Log         *slog.Logger
}

const (
	defaultGrace = 40 * time.Second
	// evictAfter is what Pods that do not say otherwise tolerate.
	evictAfter = 300 * time.Second
)

type controller struct {
	Config
	nodes  corelisters.NodeLister
	pods   corelisters.PodLister
	leases coordinationlisters.LeaseLister
	loop   *loop.Loop
	since  time.Time // before which no lease can be held against a node
}

// Run watches until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	if cfg.GracePeriod == 0 {
		cfg.GracePeriod = defaultGrace
	}
	core := cfg.Informers.Core().V1()
	c := &controller{
		Config: cfg, nodes: core.Nodes().Lister(), pods: core.Pods().Lister(),
		leases: cfg.Informers.Coordination().V1().Leases().Lister(), since: time.Now(),
	}
	c.loop = loop.New("nodelife", cfg.Log, c.reconcile)
	nodes, err := core.Nodes().Informer().AddEventHandler(c.loop.Handler())
	if err != nil {
		return fmt.Errorf("nodelife controller: %w", err)
	}
	leases, err := cfg.Informers.Coordination().V1().Leases().Informer().AddEventHandler(loop.Each(func(o metav1.Object) {
		if o.GetNamespace() == corev1.NamespaceNodeLease {
			c.loop.Add(loop.Key{Name: o.GetName()})
		}
	}))
	if err != nil {
		return fmt.Errorf("nodelife controller: %w", err)
	}
	pods, err := core.Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { c.podAppeared(o.(*corev1.Pod)) },
		UpdateFunc: func(old, o any) {
			if old.(*corev1.Pod).Spec.NodeName != o.(*corev1.Pod).Spec.NodeName {
				c.podAppeared(o.(*corev1.Pod))
			}
		},
	})
	if err != nil {
		return fmt.Errorf("nodelife controller: %w", err)
	}
	cfg.Informers.Start(ctx.Done())
	if !cache.WaitFor(ctx, "", nodes.HasSyncedChecker(), leases.HasSyncedChecker(), pods.HasSyncedChecker()) {
		return nil
	}
	c.loop.Run(ctx, 2)
	return nil
}

// podAppeared asks for a node that may not be there.
func (c *controller) podAppeared(p *corev1.Pod) {
	if p.Spec.NodeName == "" {
		return
	}
	if _, err := c.nodes.Get(p.Spec.NodeName); apierrors.IsNotFound(err) {
		c.loop.Add(loop.Key{Name: p.Spec.NodeName})
	}
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	n, err := c.nodes.Get(key.Name)
	if apierrors.IsNotFound(err) {
		return c.removePods(ctx, key.Name)
	}
	if err != nil {
		return err
	}
	renewed := c.since
	if l, err := c.leases.Leases(corev1.NamespaceNodeLease).Get(n.Name); err == nil && l.Spec.RenewTime != nil && l.Spec.RenewTime.After(renewed) {
		renewed = l.Spec.RenewTime.Time
	}
	// Comparing this machine's clock with the agent's: in a box they are one.
	if left := c.GracePeriod - time.Since(renewed); left > 0 {
		c.loop.AddAfter(key, left+time.Millisecond)
		return c.alive(ctx, n)
	}
	return c.lost(ctx, key, n)
}

var (
	unreachable         = corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}
	unreachableSchedule = corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoSchedule}
)

// alive takes the taints off a node whose agent says that it is ready.
func (c *controller) alive(ctx context.Context, n *corev1.Node) error {
	r := readiness(n)
	if r == nil || r.Status == corev1.ConditionUnknown || !tainted(n) {
		return nil
	}
	changed := n.DeepCopy()
	changed.Spec.Taints = slices.DeleteFunc(changed.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeUnreachable })
	_, err := c.Client.CoreV1().Nodes().Update(ctx, changed, metav1.UpdateOptions{})
	return err
}

func readiness(n *corev1.Node) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == corev1.NodeReady {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

func tainted(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeUnreachable })
}

// lost marks a node whose agent is silent, and its Pods.
func (c *controller) lost(ctx context.Context, key loop.Key, n *corev1.Node) error {
	r := readiness(n)
	if r == nil {
		return nil // it has never been there
	}
	if r.Status != corev1.ConditionUnknown {
		changed := n.DeepCopy()
		now := metav1.Now()
		for i := range changed.Status.Conditions {
			condition := &changed.Status.Conditions[i]
			condition.Status, condition.LastTransitionTime = corev1.ConditionUnknown, now
			condition.Reason, condition.Message = "NodeStatusUnknown", "Kubelet stopped posting node status."
		}
		updated, err := c.Client.CoreV1().Nodes().UpdateStatus(ctx, changed, metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		c.Recorder.Eventf(n, corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", n.Name)
		n = updated
	}
	if !tainted(n) {
		changed := n.DeepCopy()
		now := metav1.Now()
		for _, t := range []corev1.Taint{unreachable, unreachableSchedule} {
			t.TimeAdded = &now
			changed.Spec.Taints = append(changed.Spec.Taints, t)
		}
		if _, err := c.Client.CoreV1().Nodes().Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	return c.leavePods(ctx, key, n)
}

// leavePods marks the Pods of a lost node as not ready, and deletes those that
// have tolerated it long enough.
func (c *controller) leavePods(ctx context.Context, key loop.Key, n *corev1.Node) error {
	pods, err := c.podsOf(n.Name)
	if err != nil {
		return err
	}
	lostAt := time.Now()
	for _, t := range n.Spec.Taints {
		if t.Key == unreachable.Key && t.Effect == unreachable.Effect && t.TimeAdded != nil {
			lostAt = t.TimeAdded.Time
		}
	}
	next := time.Duration(0)
	for _, p := range pods {
		if err := c.markNotReady(ctx, p); err != nil {
			return err
		}
		tolerated, forever := toleration(p)
		if forever || p.DeletionTimestamp != nil {
			continue
		}
		if left := tolerated - time.Since(lostAt); left > 0 {
			if next == 0 || left < next {
				next = left
			}
			continue
		}
		c.Recorder.Eventf(p, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", p.Namespace, p.Name)
		if err := c.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	if next > 0 {
		c.loop.AddAfter(key, next+time.Millisecond)
	}
	return nil
}

// toleration is how long a Pod stays bound to a node that is lost.
func toleration(p *corev1.Pod) (d time.Duration, forever bool) {
	for i := range p.Spec.Tolerations {
		t := &p.Spec.Tolerations[i]
		if !corev1helpers.TolerationsTolerateTaint(klog.Background(), p.Spec.Tolerations[i:i+1], &unreachable, false) {
			continue
		}
		if t.TolerationSeconds == nil {
			return 0, true
		}
		return time.Duration(max(0, *t.TolerationSeconds)) * time.Second, false
	}
	return evictAfter, false
}

func (c *controller) markNotReady(ctx context.Context, p *corev1.Pod) error {
	for i, condition := range p.Status.Conditions {
		if condition.Type != corev1.PodReady || condition.Status == corev1.ConditionFalse {
			continue
		}
		changed := p.DeepCopy()
		changed.Status.Conditions[i].Status = corev1.ConditionFalse
		changed.Status.Conditions[i].LastTransitionTime = metav1.Now()
		changed.Status.Conditions[i].Reason = "NodeNotReady"
		_, err := c.Client.CoreV1().Pods(p.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// removePods deletes the Pods of a node that is gone.
func (c *controller) removePods(ctx context.Context, node string) error {
	// Ask the API itself: the cache may not have a new node yet.
	if _, err := c.Client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return err
	}
	pods, err := c.podsOf(node)
	if err != nil {
		return err
	}
	zero := int64(0)
	for _, p := range pods {
		err := c.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &p.UID}})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

func (c *controller) podsOf(node string) ([]*corev1.Pod, error) {
	all, err := c.pods.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(all), func(p *corev1.Pod) bool { return p.Spec.NodeName != node }), nil
}
