package serviceenv

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// For gives the variables of a container in namespace. Services of that
// namespace count when links is true (the Pod's enableServiceLinks); the
// Service default/kubernetes always does, unless the namespace has one of that
// name itself and links is true. Services without a cluster IP have none. The
// order is that of the Services' names.
func For(services []*corev1.Service, namespace string, links bool) []corev1.EnvVar {
	chosen := map[string]*corev1.Service{}
	for _, s := range services {
		if !hasClusterIP(s) {
			continue
		}
		master := s.Namespace == corev1.NamespaceDefault && s.Name == "kubernetes"
		switch {
		case s.Namespace == namespace && links:
			chosen[s.Name] = s
		case master && chosen[s.Name] == nil:
			chosen[s.Name] = s
		}
	}
	ordered := make([]*corev1.Service, 0, len(chosen))
	for _, s := range chosen {
		ordered = append(ordered, s)
	}
	slices.SortFunc(ordered, func(a, b *corev1.Service) int { return cmp.Compare(a.Name, b.Name) })

	var env []corev1.EnvVar
	for _, s := range ordered {
		env = append(env, variables(s)...)
	}
	return env
}

func hasClusterIP(s *corev1.Service) bool {
	_, err := netip.ParseAddr(s.Spec.ClusterIP)
	return err == nil && len(s.Spec.Ports) > 0
}

func variables(s *corev1.Service) []corev1.EnvVar {
	prefix := variableName(s.Name)
	ip := s.Spec.ClusterIP
	var env []corev1.EnvVar
	set := func(name, value string) {
		env = append(env, corev1.EnvVar{Name: prefix + name, Value: value})
	}

	set("_SERVICE_HOST", ip)
	set("_SERVICE_PORT", fmt.Sprint(s.Spec.Ports[0].Port))
	for _, p := range s.Spec.Ports {
		if p.Name != "" {
			set("_SERVICE_PORT_"+variableName(p.Name), fmt.Sprint(p.Port))
		}
	}

	// The variables that Docker's container links used to set.
	for i, p := range s.Spec.Ports {
		protocol := string(cmp.Or(p.Protocol, corev1.ProtocolTCP))
		url := fmt.Sprintf("%s://%s", strings.ToLower(protocol), hostPort(ip, p.Port))
		if i == 0 {
			set("_PORT", url)
		}
		port := fmt.Sprintf("_PORT_%d_%s", p.Port, strings.ToUpper(protocol))
		set(port, url)
		set(port+"_PROTO", strings.ToLower(protocol))
		set(port+"_PORT", fmt.Sprint(p.Port))
		set(port+"_ADDR", ip)
	}
	return env
}

func hostPort(ip string, port int32) string {
	if strings.Contains(ip, ":") {
		return fmt.Sprintf("[%s]:%d", ip, port)
	}
	return fmt.Sprintf("%s:%d", ip, port)
}

func variableName(s string) string {
	return strings.ToUpper(strings.ReplaceAll(s, "-", "_"))
}
