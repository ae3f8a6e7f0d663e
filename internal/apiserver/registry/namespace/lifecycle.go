package namespace

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
)

var errNotANamespace = errors.New("the stored object is not a namespace")

// distrustCache is how long after the deletion of a namespace the watch cache
// is not believed when it says that the namespace is active.
const distrustCache = 30 * time.Second

type readFunc func(ctx context.Context, namespace, name string) (*corev1.Namespace, error)

// lifecycle refuses new objects in namespaces that are missing or Terminating,
// and the deletion of the namespaces that a cluster cannot be without.
type lifecycle struct {
	*admission.Handler
	cached, latest readFunc

	mu      sync.Mutex
	deleted map[string]time.Time
}

func newLifecycle(cached, latest readFunc) *lifecycle {
	return &lifecycle{
		Handler: admission.NewHandler(admission.Create, admission.Delete),
		cached:  cached,
		latest:  latest,
		deleted: map[string]time.Time{},
	}
}

// Admit implements admission.MutationInterface, so that the refusal comes
// before any other plugin or validation has an opinion.
func (l *lifecycle) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetKind().GroupKind() == (schema.GroupKind{Kind: "Namespace"}) {
		return l.admitNamespace(a)
	}
	if a.GetNamespace() == "" || a.GetOperation() != admission.Create {
		return nil
	}
	n, err := l.read(ctx, a.GetNamespace())
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("look up namespace %s: %w", a.GetNamespace(), err))
	}
	if n.Status.Phase != corev1.NamespaceTerminating {
		return nil
	}
	return terminating(a)
}

func (l *lifecycle) admitNamespace(a admission.Attributes) error {
	if a.GetOperation() != admission.Delete {
		return nil
	}
	switch a.GetName() {
	case metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic:
		return apierrors.NewForbidden(a.GetResource().GroupResource(), a.GetName(), errors.New("this namespace may not be deleted"))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for name, at := range l.deleted {
		if now.Sub(at) > distrustCache {
			delete(l.deleted, name)
		}
	}
	l.deleted[a.GetName()] = now
	return nil
}

// read believes the watch cache, except where it may well be behind: a
// namespace that it does not know yet, or one that was just deleted.
func (l *lifecycle) read(ctx context.Context, name string) (*corev1.Namespace, error) {
	l.mu.Lock()
	at, known := l.deleted[name]
	l.mu.Unlock()
	if !known || time.Since(at) > distrustCache {
		n, err := l.cached(ctx, "", name)
		if err == nil {
			return n, nil
		}
	}
	return l.latest(ctx, "", name)
}

func terminating(a admission.Attributes) error {
	err := admission.NewForbidden(a, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", a.GetNamespace()))
	var status *apierrors.StatusError
	if errors.As(err, &status) && status.ErrStatus.Details != nil {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{
			Type:    corev1.NamespaceTerminatingCause,
			Message: fmt.Sprintf("namespace %s is being terminated", a.GetNamespace()),
			Field:   "metadata.namespace",
		})
	}
	return err
}

var _ admission.MutationInterface = (*lifecycle)(nil)
