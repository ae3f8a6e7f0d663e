package apiserver

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

func parse[T any](t *testing.T, text string) *T {
	t.Helper()
	o := new(T)
	must(t, yaml.Unmarshal([]byte(text), o))
	return o
}

const web = `{metadata: {name: web, labels: {app: web}}, spec: {containers: [{name: c, image: "nginx:1.22", ports: [{containerPort: 80}], readinessProbe: {httpGet: {port: 80}}}]}}`

func TestPodLivesFromCreationToDeletion(t *testing.T) {
	c := start(t, t.TempDir())
	pods := c.client.CoreV1().Pods("default")
	p, err := pods.Create(t.Context(), parse[corev1.Pod](t, web), metav1.CreateOptions{})
	must(t, err)
	if p.Status.Phase != "Pending" || p.Status.QOSClass != "BestEffort" || p.Spec.RestartPolicy != "Always" || p.Spec.DNSPolicy != "ClusterFirst" ||
		*p.Spec.TerminationGracePeriodSeconds != 30 || p.Spec.Containers[0].ImagePullPolicy != "IfNotPresent" ||
		p.Spec.Containers[0].ReadinessProbe.PeriodSeconds != 10 || p.Spec.Containers[0].ReadinessProbe.HTTPGet.Path != "/" {
		out, _ := yaml.Marshal(p)
		t.Errorf("a new Pod is\n%s", out)
	}
	bind := func(node string) error {
		return pods.Bind(t.Context(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}, metav1.CreateOptions{})
	}
	must(t, bind("node-1"))
	if err := bind("node-2"); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `already assigned to node "node-1"`) {
		t.Errorf("bound twice: %v", err)
	}
	list, err := pods.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=node-1"})
	must(t, err)
	if len(list.Items) != 1 || list.Items[0].Status.Conditions[0].Type != "PodScheduled" {
		t.Errorf("on node-1: %+v", list.Items)
	}
	status := `{"status":{"phase":"Running","podIPs":[{"ip":"10.244.0.5"}],"containerStatuses":[{"name":"c","ready":true,"image":"nginx:1.22","imageID":"","state":{"running":{}}}]}}`
	p, err = pods.Patch(t.Context(), "web", types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status")
	must(t, err)
	if p.Status.PodIP != "10.244.0.5" {
		t.Errorf("podIP %q", p.Status.PodIP)
	}
	// What runs may not change, but its image.
	_, err = pods.Patch(t.Context(), "web", types.StrategicMergePatchType, []byte(`{"spec":{"containers":[{"name":"c","image":"nginx:1.23"}]}}`), metav1.PatchOptions{})
	must(t, err)
	_, err = pods.Patch(t.Context(), "web", types.StrategicMergePatchType, []byte(`{"spec":{"containers":[{"name":"c","command":["x"]}]}}`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "pod updates may not change fields other than") {
		t.Errorf("another command: %v", err)
	}
	must(t, pods.Delete(t.Context(), "web", metav1.DeleteOptions{}))
	p, err = pods.Get(t.Context(), "web", metav1.GetOptions{})
	must(t, err)
	if p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != 30 {
		t.Errorf("deleted: %v %v", p.DeletionTimestamp, p.DeletionGracePeriodSeconds)
	}
	zero := int64(0)
	must(t, pods.Delete(t.Context(), "web", metav1.DeleteOptions{GracePeriodSeconds: &zero}))
	if _, err := pods.Get(t.Context(), "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("gone: %v", err)
	}
	// One that is nowhere goes at once.
	_, err = pods.Create(t.Context(), parse[corev1.Pod](t, web), metav1.CreateOptions{})
	must(t, err)
	must(t, pods.Delete(t.Context(), "web", metav1.DeleteOptions{}))
	if _, err := pods.Get(t.Context(), "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("gone at once: %v", err)
	}
}

func TestPodsAreRefusedInKubernetesWords(t *testing.T) {
	c := start(t, t.TempDir())
	for text, want := range map[string]string{
		`{metadata: {name: x}, spec: {}}`:                                                                                                                 "spec.containers: Required value",
		`{metadata: {name: x}, spec: {containers: [{name: c}]}}`:                                                                                          "spec.containers[0].image: Required value",
		`{metadata: {name: x}, spec: {containers: [{name: c, image: i}, {name: c, image: i}]}}`:                                                           `spec.containers[1].name: Duplicate value: "c"`,
		`{metadata: {name: x}, spec: {containers: [{name: C, image: i}]}}`:                                                                                "spec.containers[0].name: Invalid value",
		`{metadata: {name: x}, spec: {containers: [{name: c, image: i, volumeMounts: [{name: v, mountPath: /v}]}]}}`:                                      `spec.containers[0].volumeMounts[0].name: Not found: "v"`,
		`{metadata: {name: x}, spec: {containers: [{name: c, image: i, readinessProbe: {}}]}}`:                                                            "spec.containers[0].readinessProbe: Required value: must specify a handler type",
		`{metadata: {name: x}, spec: {containers: [{name: c, image: i, imagePullPolicy: Sometimes}]}}`:                                                    `Unsupported value: "Sometimes"`,
		`{metadata: {name: x}, spec: {containers: [{name: c, image: i, ports: [{containerPort: 99999}]}]}}`:                                               "must be between 1 and 65535, inclusive",
		`{metadata: {name: x}, spec: {containers: [{name: c, image: i, env: [{name: a, value: b, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}]}}`: "may not be specified when `value` is not empty",
		`{metadata: {name: x}, spec: {containers: [{name: c, image: i, resources: {requests: {cpu: 2}, limits: {cpu: 1}}}]}}`:                             "must be less than or equal to cpu limit of 1",
	} {
		_, err := c.client.CoreV1().Pods("default").Create(t.Context(), parse[corev1.Pod](t, text), metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n  got  %v\n  want %s", text, err, want)
		}
	}
}

const webDeployment = `{metadata: {name: web}, spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: nginx}]}}}}`

func TestDeploymentsAreSettledScaledAndRefused(t *testing.T) {
	c := start(t, t.TempDir())
	deployments := c.client.AppsV1().Deployments("default")
	d, err := deployments.Create(t.Context(), parse[appsv1.Deployment](t, webDeployment), metav1.CreateOptions{})
	must(t, err)
	if *d.Spec.Replicas != 1 || d.Generation != 1 || d.Spec.Strategy.RollingUpdate.MaxSurge.StrVal != "25%" || *d.Spec.RevisionHistoryLimit != 10 ||
		d.Spec.Template.Spec.Containers[0].ImagePullPolicy != "Always" {
		out, _ := yaml.Marshal(d)
		t.Errorf("a new Deployment is\n%s", out)
	}
	s, err := deployments.GetScale(t.Context(), "web", metav1.GetOptions{})
	must(t, err)
	if s.Spec.Replicas != 1 || s.Status.Selector != "app=web" {
		t.Errorf("scale %+v", s)
	}
	s.Spec.Replicas = 4
	_, err = deployments.UpdateScale(t.Context(), "web", s, metav1.UpdateOptions{})
	must(t, err)
	d, err = deployments.Get(t.Context(), "web", metav1.GetOptions{})
	must(t, err)
	if *d.Spec.Replicas != 4 || d.Generation != 2 {
		t.Errorf("scaled: %d replicas, generation %d", *d.Spec.Replicas, d.Generation)
	}
	d.Status.ReadyReplicas, d.Status.Replicas = 3, 4
	d, err = deployments.UpdateStatus(t.Context(), d, metav1.UpdateOptions{})
	must(t, err)
	if d.Generation != 2 || d.Status.ReadyReplicas != 3 {
		t.Errorf("status: %+v", d.Status)
	}
	for patch, want := range map[string]string{
		`{"spec":{"selector":{"matchLabels":{"app":"other"}}}}`:                     "field is immutable",
		`{"spec":{"replicas":-1}}`:                                                  "must be greater than or equal to 0",
		`{"spec":{"template":{"metadata":{"labels":{"app":"other"}}}}}`:             "`selector` does not match template `labels`",
		`{"spec":{"strategy":{"type":"Sideways"}}}`:                                 `Unsupported value: "Sideways"`,
		`{"spec":{"strategy":{"rollingUpdate":{"maxUnavailable":0,"maxSurge":0}}}}`: "may not be 0 when `maxSurge` is 0",
	} {
		_, err := deployments.Patch(t.Context(), "web", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n  got  %v\n  want %s", patch, err, want)
		}
	}
}
