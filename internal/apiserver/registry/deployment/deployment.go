// Package deployment serves Deployments (apps/v1) and their scale.
package deployment

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"viaduct.dev/viaduct/internal/apiserver/registry"
	"viaduct.dev/viaduct/internal/apiserver/registry/podtemplate"
	"viaduct.dev/viaduct/internal/apiserver/registry/scale"
	"viaduct.dev/viaduct/internal/apiserver/table"
)

type deployment = *appsv1.Deployment

// Install adds Deployments to the server.
func Install(env *registry.Env, r *registry.Resources) error {
	store, err := registry.NewStore(env, registry.Kind[deployment]{
		Version:    appsv1.SchemeGroupVersion,
		Resource:   "deployments",
		Singular:   "deployment",
		Kind:       "Deployment",
		ShortNames: []string{"deploy"},
		Categories: []string{"all"},
		New:        func() deployment { return &appsv1.Deployment{} },
		NewList:    func() runtime.Object { return &appsv1.DeploymentList{} },
		Columns:    columns(),
		Default:    setDefaults,
		Validate:   func(_ context.Context, d deployment) field.ErrorList { return validate(d) },
		ValidateUpdate: func(_ context.Context, d, old deployment) field.ErrorList {
			return validation.ValidateImmutableField(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))
		},
		Status:           &registry.Status[deployment]{},
		CountsGeneration: true,
	})
	if err != nil {
		return err
	}
	if err := store.AddTo(r); err != nil {
		return err
	}
	return r.Add(appsv1.SchemeGroupVersion, "deployments/scale", &scale.REST[deployment]{
		Store: store.Store, Version: appsv1.SchemeGroupVersion, Resource: "deployments",
		Replicas: func(d deployment) (*int32, int32, *metav1.LabelSelector) {
			return d.Spec.Replicas, d.Status.Replicas, d.Spec.Selector
		},
		SetReplicas: func(d deployment, n int32) { d.Spec.Replicas = &n },
	})
}

func columns() []table.Column[deployment] {
	return []table.Column[deployment]{
		{Name: "Ready", Description: "How many of the Pods that are wanted are ready.", Cell: func(d deployment) any {
			return fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, ptr.Deref(d.Spec.Replicas, 1))
		}},
		{Name: "Up-to-date", Type: "integer", Description: "How many Pods are of the newest template.", Cell: func(d deployment) any { return int64(d.Status.UpdatedReplicas) }},
		{Name: "Available", Type: "integer", Description: "How many Pods have been ready for long enough.", Cell: func(d deployment) any { return int64(d.Status.AvailableReplicas) }},
		table.Age[deployment](),
		{Name: "Containers", Wide: true, Description: "The template's containers.", Cell: func(d deployment) any { return podtemplate.ContainerNames(&d.Spec.Template) }},
		{Name: "Images", Wide: true, Description: "The template's images.", Cell: func(d deployment) any { return podtemplate.ContainerImages(&d.Spec.Template) }},
		{Name: "Selector", Wide: true, Description: "The labels of its Pods.", Cell: func(d deployment) any { return metav1.FormatLabelSelector(d.Spec.Selector) }},
	}
}

// setDefaults fills in what the API documentation of DeploymentSpec says is
// meant when a field is left out.
func setDefaults(d deployment) {
	spec := &d.Spec
	if spec.Replicas == nil {
		spec.Replicas = ptr.To[int32](1)
	}
	if spec.Strategy.Type == "" {
		spec.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		if spec.Strategy.RollingUpdate == nil {
			spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{}
		}
		for _, v := range []**intstr.IntOrString{&spec.Strategy.RollingUpdate.MaxUnavailable, &spec.Strategy.RollingUpdate.MaxSurge} {
			if *v == nil {
				*v = ptr.To(intstr.FromString("25%"))
			}
		}
	}
	if spec.RevisionHistoryLimit == nil {
		spec.RevisionHistoryLimit = ptr.To[int32](10)
	}
	if spec.ProgressDeadlineSeconds == nil {
		spec.ProgressDeadlineSeconds = ptr.To[int32](600)
	}
	podtemplate.SetDefaults(&spec.Template.Spec)
}

func validate(d deployment) field.ErrorList {
	path := field.NewPath("spec")
	errs := podtemplate.ValidateWorkload(d.Spec.Selector, &d.Spec.Template, d.Spec.Replicas, path)
	errs = append(errs, validateStrategy(&d.Spec.Strategy, path.Child("strategy"))...)
	for name, v := range map[string]*int32{
		"minReadySeconds": &d.Spec.MinReadySeconds, "revisionHistoryLimit": d.Spec.RevisionHistoryLimit, "progressDeadlineSeconds": d.Spec.ProgressDeadlineSeconds,
	} {
		if v != nil && *v < 0 {
			errs = append(errs, field.Invalid(path.Child(name), *v, "must be greater than or equal to 0"))
		}
	}
	if p := d.Spec.ProgressDeadlineSeconds; p != nil && *p <= d.Spec.MinReadySeconds {
		errs = append(errs, field.Invalid(path.Child("progressDeadlineSeconds"), *p, "must be greater than minReadySeconds"))
	}
	return errs
}

func validateStrategy(s *appsv1.DeploymentStrategy, at *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(at.Child("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'")}
		}
		return nil
	case appsv1.RollingUpdateDeploymentStrategyType:
	default:
		return field.ErrorList{field.NotSupported(at.Child("type"), s.Type, []appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType})}
	}
	at = at.Child("rollingUpdate")
	unavailable, errs := amount(s.RollingUpdate.MaxUnavailable, at.Child("maxUnavailable"))
	surge, more := amount(s.RollingUpdate.MaxSurge, at.Child("maxSurge"))
	errs = append(errs, more...)
	if len(errs) == 0 && unavailable == 0 && surge == 0 {
		errs = append(errs, field.Invalid(at.Child("maxUnavailable"), s.RollingUpdate.MaxUnavailable, "may not be 0 when `maxSurge` is 0"))
	}
	if len(errs) == 0 && s.RollingUpdate.MaxUnavailable.Type == intstr.String && unavailable > 100 {
		errs = append(errs, field.Invalid(at.Child("maxUnavailable"), s.RollingUpdate.MaxUnavailable, "must not be greater than 100%"))
	}
	return errs
}

// amount reads a number or a percentage.
func amount(v *intstr.IntOrString, at *field.Path) (int, field.ErrorList) {
	if v.Type == intstr.Int {
		if v.IntValue() < 0 {
			return 0, field.ErrorList{field.Invalid(at, v.IntValue(), "must be greater than or equal to 0")}
		}
		return v.IntValue(), nil
	}
	n, err := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%"))
	if err != nil || n < 0 || !strings.HasSuffix(v.StrVal, "%") {
		return 0, field.ErrorList{field.Invalid(at, v.StrVal, "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%')")}
	}
	return n, nil
}
