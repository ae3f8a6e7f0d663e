package namespace

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	restclient "k8s.io/client-go/rest"

	"viaduct.dev/viaduct/internal/apiserver/registry"
	"viaduct.dev/viaduct/internal/apiserver/table"
)

// defaults are the namespaces that every cluster has from its first start.
func defaults() []string {
	return []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease}
}

// Install adds namespaces to the server.
func Install(env *registry.Env, r *registry.Resources) error {
	store, err := registry.NewStore(env, kind())
	if err != nil {
		return err
	}
	store.ShouldDeleteDuringUpdate = func(_ context.Context, _ string, object, _ runtime.Object) bool {
		return len(object.(*corev1.Namespace).Spec.Finalizers) == 0
	}
	if err := r.Add(corev1.SchemeGroupVersion, "namespaces", &namespaceREST{Store: store}); err != nil {
		return err
	}
	if err := r.Add(corev1.SchemeGroupVersion, "namespaces/status", store.StatusREST()); err != nil {
		return err
	}
	if err := r.Add(corev1.SchemeGroupVersion, "namespaces/finalize", newFinalizeREST(store)); err != nil {
		return err
	}
	r.Admit(newLifecycle(store.Read, store.ReadLatest))
	r.Start("default-namespaces", func(ctx context.Context) error { return ensureDefaults(ctx, env.Loopback) })
	return nil
}

func kind() registry.Kind[*corev1.Namespace] {
	return registry.Kind[*corev1.Namespace]{
		Version:       corev1.SchemeGroupVersion,
		Resource:      "namespaces",
		Singular:      "namespace",
		Kind:          "Namespace",
		ShortNames:    []string{"ns"},
		ClusterScoped: true,
		New:           func() *corev1.Namespace { return &corev1.Namespace{} },
		NewList:       func() runtime.Object { return &corev1.NamespaceList{} },
		Columns: []table.Column[*corev1.Namespace]{
			{
				Name: "Status", Description: "Active, or Terminating once it is being deleted.",
				Cell: func(n *corev1.Namespace) any { return string(n.Status.Phase) },
			},
			table.Age[*corev1.Namespace](),
		},
		Fields: func(n *corev1.Namespace) fields.Set {
			return fields.Set{"status.phase": string(n.Status.Phase)}
		},
		Name:     validation.ValidateNamespaceName,
		Prepare:  prepare,
		Validate: validate,
		Status: &registry.Status[*corev1.Namespace]{
			Validate: func(_ context.Context, n, _ *corev1.Namespace) field.ErrorList {
				return validatePhase(n)
			},
		},
	}
}

func prepare(_ context.Context, n, old *corev1.Namespace) {
	if n.Name != "" {
		if n.Labels == nil {
			n.Labels = map[string]string{}
		}
		n.Labels[corev1.LabelMetadataName] = n.Name
	}
	if old != nil {
		n.Spec.Finalizers = old.Spec.Finalizers // they go through namespaces/finalize
		return
	}
	n.Status.Phase = corev1.NamespaceActive
	if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
		n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}

func validate(_ context.Context, n *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	for i, finalizer := range n.Spec.Finalizers {
		path := field.NewPath("spec", "finalizers").Index(i)
		for _, message := range utilvalidation.IsQualifiedName(string(finalizer)) {
			errs = append(errs, field.Invalid(path, finalizer, message))
		}
		if finalizer != corev1.FinalizerKubernetes && !strings.Contains(string(finalizer), "/") {
			errs = append(errs, field.Invalid(path, finalizer, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}

func validatePhase(n *corev1.Namespace) field.ErrorList {
	path := field.NewPath("status", "phase")
	switch {
	case n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceActive:
		return field.ErrorList{field.Invalid(path, n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")}
	case !n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceTerminating:
		return field.ErrorList{field.Invalid(path, n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}

// ensureDefaults creates the default namespaces that are missing.
func ensureDefaults(ctx context.Context, loopback *restclient.Config) error {
	client, err := registry.Client(loopback)
	if err != nil {
		return err
	}
	for _, name := range defaults() {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		_, err := client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create namespace %s: %w", name, err)
		}
	}
	return nil
}

var (
	_ rest.Lister          = (*namespaceREST)(nil)
	_ rest.CreaterUpdater  = (*namespaceREST)(nil)
	_ rest.GracefulDeleter = (*namespaceREST)(nil)
	_ rest.Watcher         = (*namespaceREST)(nil)
)
