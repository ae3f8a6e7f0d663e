package node

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"viaduct.dev/viaduct/internal/apiserver/table"
)

const (
	rolePrefix = "node-role.kubernetes.io/"
	roleLabel  = "kubernetes.io/role"
)

func columns() []table.Column[*corev1.Node] {
	return []table.Column[*corev1.Node]{
		{Name: "Status", Description: "Whether the node takes Pods.", Cell: func(n *corev1.Node) any { return status(n) }},
		{Name: "Roles", Description: "The roles that the node's labels state.", Cell: func(n *corev1.Node) any { return roles(n) }},
		table.Age[*corev1.Node](),
		{Name: "Version", Description: "The version of the node's agent.", Cell: func(n *corev1.Node) any { return n.Status.NodeInfo.KubeletVersion }},
		{Name: "Internal-IP", Wide: true, Description: "The node's address in the cluster.", Cell: func(n *corev1.Node) any { return address(n, corev1.NodeInternalIP) }},
		{Name: "External-IP", Wide: true, Description: "The node's address from outside.", Cell: func(n *corev1.Node) any { return address(n, corev1.NodeExternalIP) }},
		{Name: "OS-Image", Wide: true, Description: "The node's operating system.", Cell: func(n *corev1.Node) any { return orUnknown(n.Status.NodeInfo.OSImage) }},
		{Name: "Kernel-Version", Wide: true, Description: "The node's kernel.", Cell: func(n *corev1.Node) any { return orUnknown(n.Status.NodeInfo.KernelVersion) }},
		{Name: "Container-Runtime", Wide: true, Description: "What runs the containers.", Cell: func(n *corev1.Node) any { return orUnknown(n.Status.NodeInfo.ContainerRuntimeVersion) }},
	}
}

func status(n *corev1.Node) string {
	word := "Unknown"
	for _, condition := range n.Status.Conditions {
		if condition.Type != corev1.NodeReady {
			continue
		}
		word = "NotReady"
		if condition.Status == corev1.ConditionTrue {
			word = "Ready"
		}
	}
	if n.Spec.Unschedulable {
		word += ",SchedulingDisabled"
	}
	return word
}

func roles(n *corev1.Node) string {
	var names []string
	for label, value := range n.Labels {
		switch {
		case strings.HasPrefix(label, rolePrefix) && label != rolePrefix:
			names = append(names, strings.TrimPrefix(label, rolePrefix))
		case label == roleLabel && value != "":
			names = append(names, value)
		}
	}
	if len(names) == 0 {
		return "<none>"
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}

func address(n *corev1.Node, kind corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return "<none>"
}

func orUnknown(s string) string {
	if s == "" {
		return "<unknown>"
	}
	return s
}
