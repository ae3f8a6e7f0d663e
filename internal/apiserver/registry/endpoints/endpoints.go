package endpoints

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"viaduct.dev/viaduct/internal/apiserver/registry"
	"viaduct.dev/viaduct/internal/apiserver/table"
)

// shown is how many endpoints the table names before it only counts.
const shown = 3

// Install adds endpoints to the server.
func Install(env *registry.Env, r *registry.Resources) error {
	return registry.Install(env, r, registry.Kind[*corev1.Endpoints]{
		Version:        corev1.SchemeGroupVersion,
		Resource:       "endpoints",
		Singular:       "endpoints",
		Kind:           "Endpoints",
		ShortNames:     []string{"ep"},
		CreateOnUpdate: true,
		New:            func() *corev1.Endpoints { return &corev1.Endpoints{} },
		NewList:        func() runtime.Object { return &corev1.EndpointsList{} },
		Columns: []table.Column[*corev1.Endpoints]{
			{
				Name: "Endpoints", Description: "The addresses and ports that are ready.",
				Cell: func(e *corev1.Endpoints) any { return summary(e) },
			},
			table.Age[*corev1.Endpoints](),
		},
		Default:  setDefaults,
		Validate: validate,
		Warnings: func(context.Context, *corev1.Endpoints, *corev1.Endpoints) []string {
			return []string{"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"}
		},
	})
}

func summary(e *corev1.Endpoints) string {
	var names []string
	more := 0
	for _, subset := range e.Subsets {
		for _, address := range subset.Addresses {
			hostPorts := []string{address.IP}
			if len(subset.Ports) > 0 {
				hostPorts = nil
			}
			for _, port := range subset.Ports {
				hostPorts = append(hostPorts, net.JoinHostPort(address.IP, strconv.Itoa(int(port.Port))))
			}
			for _, name := range hostPorts {
				if len(names) < shown {
					names = append(names, name)
				} else {
					more++
				}
			}
		}
	}
	switch {
	case len(names) == 0:
		return "<none>"
	case more > 0:
		return fmt.Sprintf("%s + %d more...", strings.Join(names, ","), more)
	}
	return strings.Join(names, ",")
}

func setDefaults(e *corev1.Endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			if port := &e.Subsets[i].Ports[j]; port.Protocol == "" {
				port.Protocol = corev1.ProtocolTCP
			}
		}
	}
}

func validate(_ context.Context, e *corev1.Endpoints) field.ErrorList {
	var errs field.ErrorList
	for i, subset := range e.Subsets {
		path := field.NewPath("subsets").Index(i)
		if len(subset.Addresses) == 0 && len(subset.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(path, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j, address := range subset.Addresses {
			errs = append(errs, validateAddress(path.Child("addresses").Index(j), address)...)
		}
		for j, address := range subset.NotReadyAddresses {
			errs = append(errs, validateAddress(path.Child("notReadyAddresses").Index(j), address)...)
		}
		for j, port := range subset.Ports {
			errs = append(errs, validatePort(path.Child("ports").Index(j), port, len(subset.Ports) > 1)...)
		}
	}
	return errs
}

func validateAddress(path *field.Path, address corev1.EndpointAddress) field.ErrorList {
	errs := validation.IsValidIPForLegacyField(path.Child("ip"), address.IP, true, nil)
	if address.Hostname != "" {
		for _, message := range validation.IsDNS1123Label(address.Hostname) {
			errs = append(errs, field.Invalid(path.Child("hostname"), address.Hostname, message))
		}
	}
	if ip := net.ParseIP(address.IP); ip != nil {
		switch {
		case ip.IsUnspecified():
			errs = append(errs, field.Invalid(path.Child("ip"), address.IP, "may not be unspecified (0.0.0.0 or ::)"))
		case ip.IsLoopback():
			errs = append(errs, field.Invalid(path.Child("ip"), address.IP, "may not be in the loopback range (127.0.0.0/8, ::1/128)"))
		case ip.IsLinkLocalUnicast():
			errs = append(errs, field.Invalid(path.Child("ip"), address.IP, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"))
		case ip.IsLinkLocalMulticast():
			errs = append(errs, field.Invalid(path.Child("ip"), address.IP, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"))
		}
	}
	return errs
}

func validatePort(path *field.Path, port corev1.EndpointPort, needsName bool) field.ErrorList {
	var errs field.ErrorList
	if port.Name == "" && needsName {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	if port.Name != "" {
		for _, message := range validation.IsDNS1123Label(port.Name) {
			errs = append(errs, field.Invalid(path.Child("name"), port.Name, message))
		}
	}
	for _, message := range validation.IsValidPortNum(int(port.Port)) {
		errs = append(errs, field.Invalid(path.Child("port"), port.Port, message))
	}
	switch port.Protocol {
	case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
	default:
		errs = append(errs, field.NotSupported(path.Child("protocol"), port.Protocol,
			[]corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}))
	}
	return errs
}
