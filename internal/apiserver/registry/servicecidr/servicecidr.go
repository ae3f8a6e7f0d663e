// Package servicecidr serves ServiceCIDRs (KEP-1880). The one named kubernetes
// tells the ranges that the server was started with.
package servicecidr

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"viaduct.dev/viaduct/internal/apiserver/registry"
	"viaduct.dev/viaduct/internal/apiserver/table"
)

// defaultName is the object that tells the server's own ranges.
const defaultName = "kubernetes"

// Install adds ServiceCIDRs to the server.
func Install(env *registry.Env, r *registry.Resources) error {
	r.Start("default-service-cidr", func(ctx context.Context) error { return ensureDefault(ctx, env) })
	return registry.Install(env, r, registry.Kind[*networkingv1.ServiceCIDR]{
		Version:       networkingv1.SchemeGroupVersion,
		Resource:      "servicecidrs",
		Singular:      "servicecidr",
		Kind:          "ServiceCIDR",
		ClusterScoped: true,
		New:           func() *networkingv1.ServiceCIDR { return &networkingv1.ServiceCIDR{} },
		NewList:       func() runtime.Object { return &networkingv1.ServiceCIDRList{} },
		Columns: []table.Column[*networkingv1.ServiceCIDR]{
			{Name: "CIDRs", Description: "The ranges.", Cell: func(s *networkingv1.ServiceCIDR) any { return strings.Join(s.Spec.CIDRs, ",") }},
			table.Age[*networkingv1.ServiceCIDR](),
		},
		Validate: func(_ context.Context, s *networkingv1.ServiceCIDR) field.ErrorList {
			return validate(s, env.ServiceCIDRs)
		},
		ValidateUpdate: func(_ context.Context, s, old *networkingv1.ServiceCIDR) field.ErrorList {
			if !slices.Equal(s.Spec.CIDRs, old.Spec.CIDRs) {
				return field.ErrorList{field.Invalid(field.NewPath("spec", "cidrs"), s.Spec.CIDRs, "field is immutable")}
			}
			return nil
		},
		Status: &registry.Status[*networkingv1.ServiceCIDR]{},
	})
}

// validate accepts the server's own ranges only: addresses are allocated from
// no others, and a range that nothing is allocated from would be a promise
// that is not kept.
func validate(s *networkingv1.ServiceCIDR, own []netip.Prefix) field.ErrorList {
	path := field.NewPath("spec", "cidrs")
	var errs field.ErrorList
	if n := len(s.Spec.CIDRs); n == 0 {
		return field.ErrorList{field.Required(path, "at least one CIDR required")}
	} else if n > 2 {
		return field.ErrorList{field.Invalid(path, s.Spec.CIDRs, "may only hold up to 2 values")}
	}
	families := map[bool]bool{}
	for i, c := range s.Spec.CIDRs {
		at := path.Index(i)
		problems := validation.IsValidCIDR(at, c)
		errs = append(errs, problems...)
		if len(problems) > 0 {
			continue
		}
		p, err := netip.ParsePrefix(c)
		if err != nil {
			continue
		}
		if families[p.Addr().Is4()] {
			errs = append(errs, field.Invalid(path, s.Spec.CIDRs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
		}
		families[p.Addr().Is4()] = true
		if !slices.Contains(own, p) {
			errs = append(errs, field.Forbidden(at, "cluster IPs are allocated from the ranges that the server was started with; start it with another --service-cluster-ip-range"))
		}
	}
	return errs
}

// ensureDefault makes the object that tells the server's own ranges.
func ensureDefault(ctx context.Context, env *registry.Env) error {
	client, err := registry.Client(env.Loopback)
	if err != nil {
		return err
	}
	var ranges []string
	for _, p := range env.ServiceCIDRs {
		ranges = append(ranges, p.String())
	}
	cidrs := client.NetworkingV1().ServiceCIDRs()
	have, err := cidrs.Get(ctx, defaultName, metav1.GetOptions{})
	if err == nil && slices.Equal(have.Spec.CIDRs, ranges) {
		return nil
	}
	if err == nil { // the server was started with other ranges than before
		if err := cidrs.Delete(ctx, defaultName, metav1.DeleteOptions{}); err != nil {
			return err
		}
	} else if !apierrors.IsNotFound(err) {
		return err
	}
	have, err = cidrs.Create(ctx, &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: defaultName},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: ranges},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	have.Status.Conditions = []metav1.Condition{{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, LastTransitionTime: metav1.Now(),
		Message: "Kubernetes Service CIDR is ready",
	}}
	_, err = cidrs.UpdateStatus(ctx, have, metav1.UpdateOptions{})
	return err
}
