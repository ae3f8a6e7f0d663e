// Package endpointslice serves EndpointSlices (discovery.k8s.io/v1).
package endpointslice

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"viaduct.dev/viaduct/internal/apiserver/registry"
	"viaduct.dev/viaduct/internal/apiserver/registry/address"
	"viaduct.dev/viaduct/internal/apiserver/table"
)

// The limits of the API documentation.
const (
	maxEndpoints = 1000
	maxPorts     = 20000
	maxAddresses = 100
	maxHints     = 8
)

// Install adds EndpointSlices to the server.
func Install(env *registry.Env, r *registry.Resources) error {
	return registry.Install(env, r, registry.Kind[*discoveryv1.EndpointSlice]{
		Version:  discoveryv1.SchemeGroupVersion,
		Resource: "endpointslices",
		Singular: "endpointslice",
		Kind:     "EndpointSlice",
		New:      func() *discoveryv1.EndpointSlice { return &discoveryv1.EndpointSlice{} },
		NewList:  func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
		Columns:  columns(),
		Default:  setDefaults,
		Prepare:  countGeneration,
		Validate: func(_ context.Context, s *discoveryv1.EndpointSlice) field.ErrorList { return validate(s) },
		ValidateUpdate: func(_ context.Context, s, old *discoveryv1.EndpointSlice) field.ErrorList {
			if s.AddressType != old.AddressType {
				return field.ErrorList{field.Invalid(field.NewPath("addressType"), s.AddressType, "field is immutable")}
			}
			return nil
		},
	})
}

func setDefaults(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		if s.Ports[i].Name == nil {
			s.Ports[i].Name = ptr.To("")
		}
		if s.Ports[i].Protocol == nil {
			s.Ports[i].Protocol = ptr.To(corev1.ProtocolTCP)
		}
	}
}

// countGeneration raises the generation with what readers act on: a slice has
// no spec of its own.
func countGeneration(_ context.Context, s, old *discoveryv1.EndpointSlice) {
	if old == nil {
		s.Generation = 1
		return
	}
	s.Generation = old.Generation
	if !equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) || !equality.Semantic.DeepEqual(s.Ports, old.Ports) || !equality.Semantic.DeepEqual(s.Labels, old.Labels) {
		s.Generation++
	}
}

func columns() []table.Column[*discoveryv1.EndpointSlice] {
	return []table.Column[*discoveryv1.EndpointSlice]{
		{Name: "AddressType", Description: "The family of the addresses.", Cell: func(s *discoveryv1.EndpointSlice) any { return string(s.AddressType) }},
		{Name: "Ports", Description: "The ports of every endpoint.", Cell: func(s *discoveryv1.EndpointSlice) any { return portList(s.Ports) }},
		{Name: "Endpoints", Description: "The endpoints' addresses.", Cell: func(s *discoveryv1.EndpointSlice) any { return addressList(s.Endpoints) }},
		table.Age[*discoveryv1.EndpointSlice](),
	}
}

const shown = 3 // of a list, in a table

func portList(ports []discoveryv1.EndpointPort) string {
	var all []string
	for _, p := range ports {
		if p.Port == nil {
			all = append(all, "*")
		} else {
			all = append(all, fmt.Sprint(*p.Port))
		}
	}
	return shorten(all, "<unset>")
}

func addressList(endpoints []discoveryv1.Endpoint) string {
	var all []string
	for _, e := range endpoints {
		all = append(all, e.Addresses...)
	}
	return shorten(all, "<unset>")
}

func shorten(all []string, none string) string {
	switch n := len(all); {
	case n == 0:
		return none
	case n > shown:
		return fmt.Sprintf("%s + %d more...", strings.Join(all[:shown], ","), n-shown)
	}
	return strings.Join(all, ",")
}

func validate(s *discoveryv1.EndpointSlice) field.ErrorList {
	var errs field.ErrorList
	types := []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN}
	if s.AddressType == "" {
		errs = append(errs, field.Required(field.NewPath("addressType"), ""))
	} else if !slices.Contains(types, s.AddressType) {
		errs = append(errs, field.NotSupported(field.NewPath("addressType"), s.AddressType, types))
	}
	errs = append(errs, validateEndpoints(s, field.NewPath("endpoints"))...)
	return append(errs, validatePorts(s.Ports, field.NewPath("ports"))...)
}

func validateEndpoints(s *discoveryv1.EndpointSlice, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := len(s.Endpoints); n > maxEndpoints {
		return field.ErrorList{field.TooMany(path, n, maxEndpoints)}
	}
	for i, e := range s.Endpoints {
		at := path.Index(i)
		if len(e.Addresses) == 0 {
			errs = append(errs, field.Required(at.Child("addresses"), "must contain at least 1 address"))
		} else if n := len(e.Addresses); n > maxAddresses {
			errs = append(errs, field.TooMany(at.Child("addresses"), n, maxAddresses))
		}
		for j, a := range e.Addresses {
			errs = append(errs, validateAddress(a, s.AddressType, at.Child("addresses").Index(j))...)
		}
		if e.Hostname != nil {
			for _, msg := range validation.IsDNS1123Label(*e.Hostname) {
				errs = append(errs, field.Invalid(at.Child("hostname"), *e.Hostname, msg))
			}
		}
		if e.NodeName != nil {
			for _, msg := range validation.IsDNS1123Subdomain(*e.NodeName) {
				errs = append(errs, field.Invalid(at.Child("nodeName"), *e.NodeName, msg))
			}
		}
		if h := e.Hints; h != nil {
			if n := len(h.ForZones); n > maxHints {
				errs = append(errs, field.TooMany(at.Child("hints", "forZones"), n, maxHints))
			}
			if n := len(h.ForNodes); n > maxHints {
				errs = append(errs, field.TooMany(at.Child("hints", "forNodes"), n, maxHints))
			}
		}
	}
	return errs
}

func validateAddress(text string, kind discoveryv1.AddressType, path *field.Path) field.ErrorList {
	if kind == discoveryv1.AddressTypeFQDN {
		return validation.IsFullyQualifiedDomainName(path, text)
	}
	ip, err := netip.ParseAddr(text)
	reason := ""
	switch {
	case err != nil || ip.Zone() != "":
		reason = "must be a valid IP address"
	case kind == discoveryv1.AddressTypeIPv4 && !ip.Is4():
		reason = "must be a valid IPv4 address"
	case kind == discoveryv1.AddressTypeIPv6 && !ip.Is6():
		reason = "must be a valid IPv6 address"
	default:
		reason = address.Problem(ip)
	}
	if reason == "" {
		return nil
	}
	return field.ErrorList{field.Invalid(path, text, reason)}
}

func validatePorts(ports []discoveryv1.EndpointPort, path *field.Path) field.ErrorList {
	if n := len(ports); n > maxPorts {
		return field.ErrorList{field.TooMany(path, n, maxPorts)}
	}
	known := []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}
	names := map[string]bool{}
	var errs field.ErrorList
	for i, p := range ports {
		at := path.Index(i)
		name := ptr.Deref(p.Name, "")
		if name != "" {
			for _, msg := range validation.IsDNS1123Label(name) {
				errs = append(errs, field.Invalid(at.Child("name"), name, msg))
			}
		}
		if names[name] {
			errs = append(errs, field.Duplicate(at.Child("name"), name))
		}
		names[name] = true
		if !slices.Contains(known, ptr.Deref(p.Protocol, "")) {
			errs = append(errs, field.NotSupported(at.Child("protocol"), ptr.Deref(p.Protocol, ""), known))
		}
		if p.Port != nil {
			for _, msg := range validation.IsValidPortNum(int(*p.Port)) {
				errs = append(errs, field.Invalid(at.Child("port"), *p.Port, msg))
			}
		}
	}
	return errs
}
