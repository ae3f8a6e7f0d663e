package lease

import (
	"context"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"viaduct.dev/viaduct/internal/apiserver/registry"
	"viaduct.dev/viaduct/internal/apiserver/table"
)

// Install adds leases to the server.
func Install(env *registry.Env, r *registry.Resources) error {
	return registry.Install(env, r, registry.Kind[*coordinationv1.Lease]{
		Version:        coordinationv1.SchemeGroupVersion,
		Resource:       "leases",
		Singular:       "lease",
		Kind:           "Lease",
		CreateOnUpdate: true,
		New:            func() *coordinationv1.Lease { return &coordinationv1.Lease{} },
		NewList:        func() runtime.Object { return &coordinationv1.LeaseList{} },
		Columns: []table.Column[*coordinationv1.Lease]{
			{
				Name: "Holder", Description: "Who holds the lease.",
				Cell: func(l *coordinationv1.Lease) any {
					if l.Spec.HolderIdentity == nil {
						return ""
					}
					return *l.Spec.HolderIdentity
				},
			},
			table.Age[*coordinationv1.Lease](),
		},
		Validate: validate,
	})
}

func validate(_ context.Context, l *coordinationv1.Lease) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	if seconds := l.Spec.LeaseDurationSeconds; seconds != nil && *seconds <= 0 {
		errs = append(errs, field.Invalid(spec.Child("leaseDurationSeconds"), *seconds, "must be greater than 0"))
	}
	if transitions := l.Spec.LeaseTransitions; transitions != nil && *transitions < 0 {
		errs = append(errs, field.Invalid(spec.Child("leaseTransitions"), *transitions, "must be greater than or equal to 0"))
	}
	return errs
}
