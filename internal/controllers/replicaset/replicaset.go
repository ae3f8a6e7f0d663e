// Package replicaset keeps as many Pods of a template as a ReplicaSet asks for.
package replicaset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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
	"k8s.io/utils/ptr"

	"viaduct.dev/viaduct/internal/controllers/loop"
)

// Config is what the controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  record.EventRecorder
	Log       *slog.Logger
}

const kind = "ReplicaSet"

// atOnce is how many Pods are created or deleted side by side, at most.
const atOnce = 100

type controller struct {
	client   kubernetes.Interface
	sets     appslisters.ReplicaSetLister
	pods     corelisters.PodLister
	recorder record.EventRecorder
	expected loop.Expectations
	loop     *loop.Loop
}

// Run keeps replicas until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	c := &controller{
		client: cfg.Client, recorder: cfg.Recorder,
		sets: cfg.Informers.Apps().V1().ReplicaSets().Lister(),
		pods: cfg.Informers.Core().V1().Pods().Lister(),
	}
	c.loop = loop.New("replicaset", cfg.Log, c.reconcile)
	sets, err := cfg.Informers.Apps().V1().ReplicaSets().Informer().AddEventHandler(c.loop.Handler())
	if err != nil {
		return fmt.Errorf("replicaset controller: %w", err)
	}
	pods, err := cfg.Informers.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { c.podAdded(o.(*corev1.Pod)) },
		UpdateFunc: func(old, o any) { c.podUpdated(old.(*corev1.Pod), o.(*corev1.Pod)) },
		DeleteFunc: c.podDeleted,
	})
	if err != nil {
		return fmt.Errorf("replicaset controller: %w", err)
	}
	cfg.Informers.Start(ctx.Done())
	if !cache.WaitFor(ctx, "", sets.HasSyncedChecker(), pods.HasSyncedChecker()) {
		return nil
	}
	c.loop.Run(ctx, 4)
	return nil
}

func (c *controller) podAdded(p *corev1.Pod) {
	if key, ok := loop.ControllerKey(p, kind); ok {
		c.expected.Created(key)
		if p.DeletionTimestamp != nil {
			c.expected.Deleted(key, p.UID)
		}
		c.loop.Add(key)
		return
	}
	c.addOrphan(p)
}

// addOrphan asks for every ReplicaSet that may adopt a Pod.
func (c *controller) addOrphan(p *corev1.Pod) {
	if metav1.GetControllerOf(p) != nil {
		return
	}
	sets, err := c.sets.ReplicaSets(p.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, s := range sets {
		if selector, err := metav1.LabelSelectorAsSelector(s.Spec.Selector); err == nil && selector.Matches(labels.Set(p.Labels)) {
			c.loop.Add(loop.KeyOf(s))
		}
	}
}

func (c *controller) podUpdated(old, p *corev1.Pod) {
	if key, ok := loop.ControllerKey(old, kind); ok {
		c.loop.Add(key)
	}
	key, ok := loop.ControllerKey(p, kind)
	if !ok {
		c.addOrphan(p)
		return
	}
	if p.DeletionTimestamp != nil {
		c.expected.Deleted(key, p.UID)
	}
	c.loop.Add(key)
}

func (c *controller) podDeleted(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	if p, ok := o.(*corev1.Pod); ok {
		if key, ok := loop.ControllerKey(p, kind); ok {
			c.expected.Deleted(key, p.UID)
			c.loop.Add(key)
		}
	}
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	set, err := c.sets.ReplicaSets(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		c.expected.Forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	pods, err := c.claim(ctx, set)
	if err != nil {
		return err
	}
	var manageErr error
	if set.DeletionTimestamp == nil && c.expected.Met(key) {
		manageErr = c.manage(ctx, key, set, pods)
	}
	if err := c.writeStatus(ctx, key, set, pods, manageErr); err != nil {
		return err
	}
	return manageErr
}

// claim gives the live Pods of the set. Pods that match and have no controller
// are adopted; those that do not match any more are let go.
func (c *controller) claim(ctx context.Context, set *appsv1.ReplicaSet) ([]*corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("selector of %s/%s: %w", set.Namespace, set.Name, err)
	}
	all, err := c.pods.Pods(set.Namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var mine []*corev1.Pod
	for _, p := range all {
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.DeletionTimestamp != nil {
			continue
		}
		owner := metav1.GetControllerOf(p)
		matches := selector.Matches(labels.Set(p.Labels))
		switch {
		case owner != nil && owner.UID == set.UID && matches:
			mine = append(mine, p)
		case owner != nil && owner.UID == set.UID && set.DeletionTimestamp == nil:
			patch := fmt.Sprintf(`{"metadata":{"uid":%q,"ownerReferences":[{"$patch":"delete","uid":%q}]}}`, p.UID, set.UID)
			if err := c.patchPod(ctx, p, patch); err != nil {
				return nil, err
			}
		case owner == nil && matches && set.DeletionTimestamp == nil:
			patch := fmt.Sprintf(`{"metadata":{"uid":%q,"ownerReferences":[{"apiVersion":"apps/v1","kind":%q,"name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":true}]}}`,
				p.UID, kind, set.Name, set.UID)
			if err := c.patchPod(ctx, p, patch); err != nil {
				return nil, err
			}
			mine = append(mine, p)
		}
	}
	return mine, nil
}

func (c *controller) patchPod(ctx context.Context, p *corev1.Pod, patch string) error {
	_, err := c.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		return nil // it is gone, or another Pod by now
	}
	return err
}

// manage creates the Pods that are missing or deletes those that are too many.
func (c *controller) manage(ctx context.Context, key loop.Key, set *appsv1.ReplicaSet, pods []*corev1.Pod) error {
	missing := int(ptr.Deref(set.Spec.Replicas, 1)) - len(pods)
	switch {
	case missing > 0:
		return c.create(ctx, key, set, min(missing, 5*atOnce))
	case missing < 0:
		return c.delete(ctx, key, set, victims(pods, -missing))
	}
	return nil
}

// create creates Pods in batches that double while they succeed, so that a
// quota or a broken template is not asked a hundred times.
func (c *controller) create(ctx context.Context, key loop.Key, set *appsv1.ReplicaSet, n int) error {
	c.expected.ExpectCreations(key, n)
	done := 0
	for batch := 1; done < n; batch *= 2 {
		errs := make([]error, min(batch, n-done, atOnce))
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = c.createOne(ctx, set) })
		}
		wg.Wait()
		for _, err := range errs {
			done++
			if err != nil {
				c.expected.Created(key)
			}
		}
		if err := errors.Join(errs...); err != nil {
			for range n - done {
				c.expected.Created(key)
			}
			if apierrors.HasStatusCause(errs[0], corev1.NamespaceTerminatingCause) {
				return nil
			}
			return err
		}
	}
	return nil
}

func (c *controller) createOne(ctx context.Context, set *appsv1.ReplicaSet) error {
	t := set.Spec.Template.DeepCopy()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: set.Namespace, GenerateName: prefix(set.Name), Labels: t.Labels, Annotations: t.Annotations, Finalizers: t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind(kind))},
		},
		Spec: t.Spec,
	}
	made, err := c.client.CoreV1().Pods(set.Namespace).Create(ctx, p, metav1.CreateOptions{})
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			c.recorder.Eventf(set, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return err
	}
	c.recorder.Eventf(set, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", made.Name)
	return nil
}

// prefix leaves room for what is generated behind it.
func prefix(name string) string {
	const longest = 57
	if len(name) > longest {
		name = name[:longest]
	}
	return name + "-"
}

func (c *controller) delete(ctx context.Context, key loop.Key, set *appsv1.ReplicaSet, pods []*corev1.Pod) error {
	for _, p := range pods {
		c.expected.ExpectDeletion(key, p.UID)
	}
	errs := make([]error, len(pods))
	var wg sync.WaitGroup
	for i, p := range pods {
		wg.Go(func() {
			err := c.client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}})
			switch {
			case err == nil:
				c.recorder.Eventf(set, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", p.Name)
			default:
				c.expected.Deleted(key, p.UID)
				if !apierrors.IsNotFound(err) {
					errs[i] = err
					c.recorder.Eventf(set, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (c *controller) writeStatus(ctx context.Context, key loop.Key, set *appsv1.ReplicaSet, pods []*corev1.Pod, manageErr error) error {
	status := appsv1.ReplicaSetStatus{Replicas: int32(len(pods)), ObservedGeneration: set.Generation, Conditions: conditions(set, manageErr)}
	template := labels.Set(set.Spec.Template.Labels).AsSelectorPreValidated()
	minReady := time.Duration(set.Spec.MinReadySeconds) * time.Second
	next := time.Duration(0)
	for _, p := range pods {
		if template.Matches(labels.Set(p.Labels)) {
			status.FullyLabeledReplicas++
		}
		since, ready := readySince(p)
		if !ready {
			continue
		}
		status.ReadyReplicas++
		if left := minReady - time.Since(since); left <= 0 {
			status.AvailableReplicas++
		} else if next == 0 || left < next {
			next = left
		}
	}
	if next > 0 {
		c.loop.AddAfter(key, next)
	}
	was := set.Status.DeepCopy()
	was.TerminatingReplicas = nil
	if equality.Semantic.DeepEqual(*was, status) {
		return nil
	}
	changed := set.DeepCopy()
	changed.Status = status
	_, err := c.client.AppsV1().ReplicaSets(set.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// conditions tells why Pods cannot be made or deleted.
func conditions(set *appsv1.ReplicaSet, manageErr error) []appsv1.ReplicaSetCondition {
	if manageErr == nil {
		return nil
	}
	c := appsv1.ReplicaSetCondition{
		Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
		Reason: "FailedCreate", Message: manageErr.Error(),
	}
	if set.Status.Replicas > ptr.Deref(set.Spec.Replicas, 1) {
		c.Reason = "FailedDelete"
	}
	for _, old := range set.Status.Conditions {
		if old.Type == c.Type && old.Reason == c.Reason {
			c.LastTransitionTime = old.LastTransitionTime
		}
	}
	return []appsv1.ReplicaSetCondition{c}
}

func readySince(p *corev1.Pod) (time.Time, bool) {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.LastTransitionTime.Time, c.Status == corev1.ConditionTrue
		}
	}
	return time.Time{}, false
}
