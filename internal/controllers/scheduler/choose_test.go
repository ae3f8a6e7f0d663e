package scheduler

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func read[T any](t *testing.T, text string) *T {
	t.Helper()
	o := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		t.Fatal(err)
	}
	return o
}

func node(t *testing.T, text string) *corev1.Node {
	n := read[corev1.Node](t, text)
	n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue})
	return n
}

func TestChoose(t *testing.T) {
	web := `metadata: {namespace: default, labels: {app: web}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web, uid: u1, controller: true}]}`
	for _, c := range []struct {
		name, pod string
		nodes     []string
		pods      map[string][]string
		want      string // a node, or part of why there is none
	}{
		{"replicas are spread", `{` + web + `}`, []string{`{metadata: {name: a}}`, `{metadata: {name: b}}`}, map[string][]string{"a": {`{` + web + `}`}}, "b"},
		{"then the emptier node", `{metadata: {namespace: default}, spec: {containers: [{name: c, resources: {requests: {cpu: 100m}}}]}}`,
			[]string{`{metadata: {name: a}, status: {allocatable: {cpu: 2}}}`, `{metadata: {name: b}, status: {allocatable: {cpu: 2}}}`},
			map[string][]string{"a": {`{metadata: {namespace: x}, spec: {containers: [{name: c, resources: {requests: {cpu: 1}}}]}}`}}, "b"},
		{"a selector", `{spec: {nodeSelector: {disk: ssd}}}`, []string{`{metadata: {name: a}}`, `{metadata: {name: b, labels: {disk: ssd}}}`}, nil, "b"},
		{"no node matches", `{spec: {nodeSelector: {disk: ssd}}}`, []string{`{metadata: {name: a}}`}, nil, "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."},
		{"a taint", `{}`, []string{`{metadata: {name: a}, spec: {taints: [{key: k, value: v, effect: NoSchedule}]}}`}, nil, "1 node(s) had untolerated taint {k: v}"},
		{"a taint that is tolerated", `{spec: {tolerations: [{key: k, operator: Exists}]}}`, []string{`{metadata: {name: a}, spec: {taints: [{key: k, value: v, effect: NoSchedule}]}}`}, nil, "a"},
		{"a cordon", `{}`, []string{`{metadata: {name: a}, spec: {unschedulable: true}}`}, nil, "1 node(s) were unschedulable"},
		{"too little CPU", `{spec: {containers: [{name: c, resources: {requests: {cpu: 2}}}]}}`, []string{`{metadata: {name: a}, status: {allocatable: {cpu: 1}}}`}, nil, "1 Insufficient cpu"},
		{"too many Pods", `{}`, []string{`{metadata: {name: a}, status: {allocatable: {pods: 1}}}`}, map[string][]string{"a": {`{}`}}, "1 Too many pods"},
		{"a host port", `{spec: {containers: [{name: c, ports: [{containerPort: 80, hostPort: 80, protocol: TCP}]}]}}`, []string{`{metadata: {name: a}}`},
			map[string][]string{"a": {`{spec: {containers: [{name: c, ports: [{containerPort: 80, hostPort: 80, protocol: TCP}]}]}}`}}, "1 node(s) didn't have free ports"},
		{"anti-affinity", `{metadata: {namespace: default, labels: {app: web}}, spec: {affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: host, labelSelector: {matchLabels: {app: web}}}]}}}}`,
			[]string{`{metadata: {name: a, labels: {host: a}}}`, `{metadata: {name: b, labels: {host: b}}}`},
			map[string][]string{"a": {`{metadata: {namespace: default, labels: {app: web}}}`}}, "b"},
		{"affinity to one that is elsewhere", `{metadata: {namespace: default}, spec: {affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: host, labelSelector: {matchLabels: {app: web}}}]}}}}`,
			[]string{`{metadata: {name: a, labels: {host: a}}}`, `{metadata: {name: b, labels: {host: b}}}`},
			map[string][]string{"b": {`{metadata: {namespace: default, labels: {app: web}}}`}}, "b"},
		{"no nodes", `{}`, nil, nil, "no nodes available to schedule pods"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var places []place
			for _, text := range c.nodes {
				n := node(t, text)
				at := place{node: n}
				for _, p := range c.pods[n.Name] {
					at.pods = append(at.pods, read[corev1.Pod](t, p))
				}
				places = append(places, at)
			}
			got, err := choose(read[corev1.Pod](t, c.pod), places)
			if err != nil {
				got = err.Error()
			}
			if err == nil && got != c.want || err != nil && !strings.Contains(got, c.want) {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}
