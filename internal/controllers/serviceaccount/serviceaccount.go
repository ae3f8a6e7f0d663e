// Package serviceaccount gives every namespace its ServiceAccount default.
package serviceaccount

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"viaduct.dev/viaduct/internal/controllers/loop"
)

// Config is what the controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Log       *slog.Logger
}

const name = "default"

// Run keeps the accounts until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	namespaces := cfg.Informers.Core().V1().Namespaces()
	accounts := cfg.Informers.Core().V1().ServiceAccounts()
	l := loop.New("serviceaccount", cfg.Log, func(ctx context.Context, key loop.Key) error {
		n, err := namespaces.Lister().Get(key.Name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil || n.Status.Phase == corev1.NamespaceTerminating {
			return err
		}
		if _, err := accounts.Lister().ServiceAccounts(n.Name).Get(name); !apierrors.IsNotFound(err) {
			return err
		}
		_, err = cfg.Client.CoreV1().ServiceAccounts(n.Name).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: n.Name, Name: name}}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return err
	})
	a, err := namespaces.Informer().AddEventHandler(l.Handler())
	if err != nil {
		return fmt.Errorf("serviceaccount controller: %w", err)
	}
	b, err := accounts.Informer().AddEventHandler(loop.Each(func(o metav1.Object) { l.Add(loop.Key{Name: o.GetNamespace()}) }))
	if err != nil {
		return fmt.Errorf("serviceaccount controller: %w", err)
	}
	cfg.Informers.Start(ctx.Done())
	if !cache.WaitFor(ctx, "", a.HasSyncedChecker(), b.HasSyncedChecker()) {
		return nil
	}
	l.Run(ctx, 2)
	return nil
}
