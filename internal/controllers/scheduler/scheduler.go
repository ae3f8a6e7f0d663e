package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"viaduct.dev/viaduct/internal/controllers/loop"
)

// Config is what the scheduler needs.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  record.EventRecorder
	Log       *slog.Logger
}

type scheduler struct {
	client   kubernetes.Interface
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
	recorder record.EventRecorder
	loop     *loop.Loop

	mu      sync.Mutex
	assumed map[types.UID]string // bound, and not yet seen as such: the node
	waiting map[loop.Key]bool    // no node may take them now
}

// Run binds Pods to nodes until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	core := cfg.Informers.Core().V1()
	s := &scheduler{
		client: cfg.Client, pods: core.Pods().Lister(), nodes: core.Nodes().Lister(), recorder: cfg.Recorder,
		assumed: map[types.UID]string{}, waiting: map[loop.Key]bool{},
	}
	s.loop = loop.New("scheduler", cfg.Log, s.schedule)
	pods, err := core.Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { s.podChanged(o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { s.podChanged(o.(*corev1.Pod)) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if p, ok := o.(*corev1.Pod); ok {
				s.podGone(p)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("scheduler: %w", err)
	}
	nodes, err := core.Nodes().Informer().AddEventHandler(loop.Each(func(metav1.Object) { s.retryWaiting() }))
	if err != nil {
		return fmt.Errorf("scheduler: %w", err)
	}
	cfg.Informers.Start(ctx.Done())
	if !cache.WaitFor(ctx, "", pods.HasSyncedChecker(), nodes.HasSyncedChecker()) {
		return nil
	}
	// One at a time: each choice depends on the one before.
	s.loop.Run(ctx, 1)
	return nil
}

func (s *scheduler) podChanged(p *corev1.Pod) {
	if p.Spec.NodeName != "" {
		s.mu.Lock()
		delete(s.assumed, p.UID)
		s.mu.Unlock()
		if ended(p) {
			s.retryWaiting()
		}
		return
	}
	if p.Spec.SchedulerName == corev1.DefaultSchedulerName && p.DeletionTimestamp == nil {
		s.loop.Add(loop.KeyOf(p))
	}
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

func (s *scheduler) podGone(p *corev1.Pod) {
	s.mu.Lock()
	delete(s.assumed, p.UID)
	delete(s.waiting, loop.KeyOf(p))
	s.mu.Unlock()
	s.retryWaiting()
}

func (s *scheduler) retryWaiting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.waiting {
		s.loop.Add(key)
	}
}

func (s *scheduler) schedule(ctx context.Context, key loop.Key) error {
	p, err := s.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if p.Spec.NodeName != "" || p.DeletionTimestamp != nil || len(p.Spec.SchedulingGates) > 0 {
		return nil
	}
	s.mu.Lock()
	_, bound := s.assumed[p.UID]
	s.mu.Unlock()
	if bound {
		return nil
	}
	places, err := s.places()
	if err != nil {
		return err
	}
	node, why := choose(p, places)
	s.mu.Lock()
	if why != nil {
		s.waiting[key] = true
	} else {
		delete(s.waiting, key)
		s.assumed[p.UID] = node
	}
	s.mu.Unlock()
	if why != nil {
		return s.tellUnschedulable(ctx, p, why)
	}
	err = s.client.CoreV1().Pods(p.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err != nil {
		s.mu.Lock()
		delete(s.assumed, p.UID)
		s.mu.Unlock()
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil // gone, or bound by somebody else
		}
		return fmt.Errorf("bind %s to %s: %w", key, node, err)
	}
	s.recorder.Eventf(p, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s to %s", key, node)
	return nil
}

// places are the nodes with the Pods that stand on them, or will in a moment.
func (s *scheduler) places() ([]place, error) {
	nodes, err := s.nodes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	pods, err := s.pods.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	on := map[string][]*corev1.Pod{}
	for _, p := range pods {
		node := p.Spec.NodeName
		if node == "" {
			node = s.assumed[p.UID]
		}
		if node != "" && !ended(p) {
			on[node] = append(on[node], p)
		}
	}
	var all []place
	for _, n := range nodes {
		all = append(all, place{n, on[n.Name]})
	}
	return all, nil
}

// tellUnschedulable writes the condition and the event that kubectl describe
// shows, when they say something new.
func (s *scheduler) tellUnschedulable(ctx context.Context, p *corev1.Pod, why error) error {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Message == why.Error() {
			return nil
		}
	}
	s.recorder.Event(p, corev1.EventTypeWarning, "FailedScheduling", why.Error())
	changed := p.DeepCopy()
	condition := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable,
		Message: why.Error(), LastTransitionTime: metav1.Now(),
	}
	found := false
	for i := range changed.Status.Conditions {
		if changed.Status.Conditions[i].Type == corev1.PodScheduled {
			condition.LastTransitionTime = changed.Status.Conditions[i].LastTransitionTime
			changed.Status.Conditions[i] = condition
			found = true
		}
	}
	if !found {
		changed.Status.Conditions = append(changed.Status.Conditions, condition)
	}
	_, err := s.client.CoreV1().Pods(p.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
