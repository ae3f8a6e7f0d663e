package serviceaccount

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"viaduct.dev/viaduct/internal/apiserver/registry"
	"viaduct.dev/viaduct/internal/apiserver/table"
)

// Install adds serviceaccounts to the server.
func Install(env *registry.Env, r *registry.Resources) error {
	return registry.Install(env, r, registry.Kind[*corev1.ServiceAccount]{
		Version:    corev1.SchemeGroupVersion,
		Resource:   "serviceaccounts",
		Singular:   "serviceaccount",
		Kind:       "ServiceAccount",
		ShortNames: []string{"sa"},
		New:        func() *corev1.ServiceAccount { return &corev1.ServiceAccount{} },
		NewList:    func() runtime.Object { return &corev1.ServiceAccountList{} },
		Columns: []table.Column[*corev1.ServiceAccount]{
			{
				Name: "Secrets", Description: "The number of secrets that it names.",
				Cell: func(s *corev1.ServiceAccount) any { return len(s.Secrets) },
			},
			table.Age[*corev1.ServiceAccount](),
		},
	})
}
