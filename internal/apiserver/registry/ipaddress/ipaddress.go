// Package ipaddress serves IPAddresses: each cluster IP in use, with the
// Service that holds it (KEP-1880).
package ipaddress

import (
	"context"
	"fmt"
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"viaduct.dev/viaduct/internal/apiserver/registry"
	"viaduct.dev/viaduct/internal/apiserver/table"
)

// Install adds IPAddresses to the server.
func Install(env *registry.Env, r *registry.Resources) error {
	return registry.Install(env, r, registry.Kind[*networkingv1.IPAddress]{
		Version:       networkingv1.SchemeGroupVersion,
		Resource:      "ipaddresses",
		Singular:      "ipaddress",
		Kind:          "IPAddress",
		ShortNames:    []string{"ip"},
		ClusterScoped: true,
		New:           func() *networkingv1.IPAddress { return &networkingv1.IPAddress{} },
		NewList:       func() runtime.Object { return &networkingv1.IPAddressList{} },
		Columns: []table.Column[*networkingv1.IPAddress]{
			{Name: "ParentRef", Description: "What holds the address.", Cell: func(ip *networkingv1.IPAddress) any { return parent(ip.Spec.ParentRef) }},
			table.Age[*networkingv1.IPAddress](),
		},
		Name:     validName,
		Validate: validate,
		ValidateUpdate: func(_ context.Context, ip, old *networkingv1.IPAddress) field.ErrorList {
			if p, q := ip.Spec.ParentRef, old.Spec.ParentRef; p != nil && q != nil && *p != *q {
				return field.ErrorList{field.Invalid(field.NewPath("spec", "parentRef"), p, "field is immutable")}
			}
			return nil
		},
	})
}

func parent(p *networkingv1.ParentReference) string {
	if p == nil {
		return "<none>"
	}
	name := p.Resource
	if p.Group != "" {
		name += "." + p.Group
	}
	if p.Namespace != "" {
		name += "/" + p.Namespace
	}
	return name + "/" + p.Name
}

// validName is an address in its canonical form.
func validName(name string, _ bool) []string {
	ip, err := netip.ParseAddr(name)
	if err != nil {
		return []string{"must be a valid IP address"}
	}
	if ip.String() != name {
		return []string{fmt.Sprintf("must be in canonical form (%q)", ip)}
	}
	return nil
}

func validate(_ context.Context, ip *networkingv1.IPAddress) field.ErrorList {
	path := field.NewPath("spec", "parentRef")
	p := ip.Spec.ParentRef
	if p == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if p.Resource == "" {
		errs = append(errs, field.Required(path.Child("resource"), ""))
	}
	if p.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	return errs
}
