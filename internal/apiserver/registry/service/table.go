package service

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"viaduct.dev/viaduct/internal/apiserver/table"
)

func columns() []table.Column[*corev1.Service] {
	return []table.Column[*corev1.Service]{
		{Name: "Type", Description: "How the Service is offered.", Cell: func(s *corev1.Service) any { return string(s.Spec.Type) }},
		{Name: "Cluster-IP", Description: "Its address inside the cluster.", Cell: func(s *corev1.Service) any { return orNone(clusterIP(s)) }},
		{Name: "External-IP", Description: "Its addresses, or name, outside.", Cell: func(s *corev1.Service) any { return externalIP(s) }},
		{Name: "Port(s)", Description: "Port, node port and protocol.", Cell: func(s *corev1.Service) any { return orNone(ports(s.Spec.Ports)) }},
		table.Age[*corev1.Service](),
		{Name: "Selector", Wide: true, Description: "The labels of its Pods.", Cell: func(s *corev1.Service) any { return orNone(labels.FormatLabels(s.Spec.Selector)) }},
	}
}

func clusterIP(s *corev1.Service) string {
	if len(s.Spec.ClusterIPs) > 0 {
		return s.Spec.ClusterIPs[0]
	}
	return s.Spec.ClusterIP
}

func externalIP(s *corev1.Service) string {
	var all []string
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return s.Spec.ExternalName
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IP != "" {
				all = append(all, in.IP)
			} else if in.Hostname != "" {
				all = append(all, in.Hostname)
			}
		}
		if len(all) == 0 && len(s.Spec.ExternalIPs) == 0 {
			return "<pending>"
		}
	}
	return orNone(strings.Join(append(all, s.Spec.ExternalIPs...), ","))
}

func ports(all []corev1.ServicePort) string {
	var out []string
	for _, p := range all {
		if p.NodePort > 0 {
			out = append(out, fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol))
		} else {
			out = append(out, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
		}
	}
	return strings.Join(out, ",")
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}
