package deployment

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"viaduct.dev/viaduct/internal/controllers/loop"
)

// Config is what the controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  record.EventRecorder
	Log       *slog.Logger
}

const kind = "Deployment"

type controller struct {
	client      kubernetes.Interface
	deployments appslisters.DeploymentLister
	sets        appslisters.ReplicaSetLister
	pods        corelisters.PodLister
	recorder    record.EventRecorder
	loop        *loop.Loop
}

// Run rolls Deployments out until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	apps := cfg.Informers.Apps().V1()
	c := &controller{
		client: cfg.Client, recorder: cfg.Recorder,
		deployments: apps.Deployments().Lister(), sets: apps.ReplicaSets().Lister(), pods: cfg.Informers.Core().V1().Pods().Lister(),
	}
	c.loop = loop.New("deployment", cfg.Log, c.reconcile)
	deployments, err := apps.Deployments().Informer().AddEventHandler(c.loop.Handler())
	if err != nil {
		return fmt.Errorf("deployment controller: %w", err)
	}
	sets, err := apps.ReplicaSets().Informer().AddEventHandler(loop.Each(c.setChanged))
	if err != nil {
		return fmt.Errorf("deployment controller: %w", err)
	}
	// Only a strategy that waits for Pods to be gone needs to hear of them.
	pods, err := cfg.Informers.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if p, ok := o.(*corev1.Pod); ok {
				c.podGone(p)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("deployment controller: %w", err)
	}
	cfg.Informers.Start(ctx.Done())
	if !cache.WaitFor(ctx, "", deployments.HasSyncedChecker(), sets.HasSyncedChecker(), pods.HasSyncedChecker()) {
		return nil
	}
	c.loop.Run(ctx, 4)
	return nil
}

func (c *controller) setChanged(o metav1.Object) {
	if key, ok := loop.ControllerKey(o, kind); ok {
		c.loop.Add(key)
		return
	}
	if metav1.GetControllerOf(o) != nil {
		return
	}
	all, err := c.deployments.Deployments(o.GetNamespace()).List(labels.Everything())
	if err != nil {
		return
	}
	for _, d := range all {
		if s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil && s.Matches(labels.Set(o.GetLabels())) {
			c.loop.Add(loop.KeyOf(d))
		}
	}
}

func (c *controller) podGone(p *corev1.Pod) {
	key, ok := loop.ControllerKey(p, "ReplicaSet")
	if !ok {
		return
	}
	if s, err := c.sets.ReplicaSets(key.Namespace).Get(key.Name); err == nil {
		c.setChanged(s)
	}
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	cached, err := c.deployments.Deployments(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	d := cached.DeepCopy()
	sets, err := c.claim(ctx, d)
	if err != nil {
		return err
	}
	r := &rollout{controller: c, d: d, now: time.Now()}
	r.sort(sets)
	if d.DeletionTimestamp == nil {
		if err := r.step(ctx); err != nil {
			return err
		}
	}
	return r.writeStatus(ctx, key)
}

// claim gives the Deployment's sets, adopting those that match and letting those
// go that do not any more.
func (c *controller) claim(ctx context.Context, d *appsv1.Deployment) ([]*appsv1.ReplicaSet, error) {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("selector of %s/%s: %w", d.Namespace, d.Name, err)
	}
	all, err := c.sets.ReplicaSets(d.Namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var mine []*appsv1.ReplicaSet
	for _, s := range all {
		owner := metav1.GetControllerOf(s)
		matches := selector.Matches(labels.Set(s.Labels))
		var patch string
		switch {
		case owner != nil && owner.UID == d.UID && matches:
			mine = append(mine, s.DeepCopy())
			continue
		case owner != nil && owner.UID == d.UID && d.DeletionTimestamp == nil:
			patch = fmt.Sprintf(`{"metadata":{"uid":%q,"ownerReferences":[{"$patch":"delete","uid":%q}]}}`, s.UID, d.UID)
		case owner == nil && matches && d.DeletionTimestamp == nil && s.DeletionTimestamp == nil:
			patch = fmt.Sprintf(`{"metadata":{"uid":%q,"ownerReferences":[{"apiVersion":"apps/v1","kind":%q,"name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":true}]}}`,
				s.UID, kind, d.Name, d.UID)
		default:
			continue
		}
		changed, err := c.client.AppsV1().ReplicaSets(s.Namespace).Patch(ctx, s.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
		if err == nil && matches {
			mine = append(mine, changed)
		}
	}
	return mine, nil
}
