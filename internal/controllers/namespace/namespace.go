// Package namespace empties namespaces that are being deleted, and lets them go
// when nothing is left in them.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"viaduct.dev/viaduct/internal/controllers/loop"
)

// Config is what the controller needs.
type Config struct {
	Client    kubernetes.Interface
	Metadata  metadata.Interface
	Informers informers.SharedInformerFactory
	Log       *slog.Logger
}

type controller struct {
	Config
	loop *loop.Loop
}

// lookAgain is the pause after which a namespace is looked at that still has
// something in it: Pods take their time to end.
const lookAgain = 200 * time.Millisecond

// Run empties namespaces until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	c := &controller{Config: cfg}
	c.loop = loop.New("namespace", cfg.Log, c.reconcile)
	namespaces, err := cfg.Informers.Core().V1().Namespaces().Informer().AddEventHandler(c.loop.Handler())
	if err != nil {
		return fmt.Errorf("namespace controller: %w", err)
	}
	cfg.Informers.Start(ctx.Done())
	if !cache.WaitFor(ctx, "", namespaces.HasSyncedChecker()) {
		return nil
	}
	c.loop.Run(ctx, 4)
	return nil
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	n, err := c.Informers.Core().V1().Namespaces().Lister().Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil || n.DeletionTimestamp == nil || !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return err
	}
	left, err := c.empty(ctx, n.Name)
	if err != nil {
		return err
	}
	if left > 0 {
		c.loop.AddAfter(key, lookAgain)
		return nil
	}
	n = n.DeepCopy()
	n.Spec.Finalizers = slices.DeleteFunc(n.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	_, err = c.Client.CoreV1().Namespaces().Finalize(ctx, n, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// empty deletes everything in a namespace and counts what is still there.
func (c *controller) empty(ctx context.Context, namespace string) (left int, err error) {
	resources, err := namespaced(c.Client.Discovery())
	if err != nil {
		return 0, err
	}
	background := metav1.DeletePropagationBackground
	for _, r := range resources {
		list, err := c.Metadata.Resource(r).Namespace(namespace).List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("list %s of namespace %s: %w", r.Resource, namespace, err)
		}
		left += len(list.Items)
		if len(list.Items) == 0 {
			continue
		}
		err = c.Metadata.Resource(r).Namespace(namespace).DeleteCollection(ctx, metav1.DeleteOptions{PropagationPolicy: &background}, metav1.ListOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return 0, fmt.Errorf("delete %s of namespace %s: %w", r.Resource, namespace, err)
		}
	}
	return left, nil
}

// namespaced finds the resources that a namespace may hold, and that can be
// listed and deleted.
func namespaced(d discovery.DiscoveryInterface) ([]schema.GroupVersionResource, error) {
	lists, err := d.ServerPreferredNamespacedResources()
	if err != nil && len(lists) == 0 {
		return nil, fmt.Errorf("discover resources: %w", err)
	}
	var all []schema.GroupVersionResource
	var errs []error
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, r := range l.APIResources {
			if slices.Contains(r.Verbs, "list") && slices.Contains(r.Verbs, "deletecollection") {
				all = append(all, gv.WithResource(r.Name))
			}
		}
	}
	return all, errors.Join(errs...)
}
