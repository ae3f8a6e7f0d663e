package registry

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
)

func deploymentKind() strategy[*appsv1.Deployment] {
	return strategy[*appsv1.Deployment]{kind: Kind[*appsv1.Deployment]{
		Version: appsv1.SchemeGroupVersion, Resource: "deployments", Singular: "deployment", Kind: "Deployment",
		New:              func() *appsv1.Deployment { return &appsv1.Deployment{} },
		NewList:          func() runtime.Object { return &appsv1.DeploymentList{} },
		Status:           &Status[*appsv1.Deployment]{},
		CountsGeneration: true,
	}}
}

func deployment(generation int64, replicas, ready int32) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Generation: generation},
		Spec:       appsv1.DeploymentSpec{Replicas: ptr.To(replicas)},
		Status:     appsv1.DeploymentStatus{ReadyReplicas: ready},
	}
}

func check(t *testing.T, d *appsv1.Deployment, generation int64, replicas, ready int32) {
	t.Helper()
	if d.Generation != generation || *d.Spec.Replicas != replicas || d.Status.ReadyReplicas != ready {
		t.Errorf("generation %d, replicas %d, ready %d; want %d, %d, %d",
			d.Generation, *d.Spec.Replicas, d.Status.ReadyReplicas, generation, replicas, ready)
	}
}

func TestANewObjectHasNoStatusAndGenerationOne(t *testing.T) {
	d := deployment(7, 3, 3)
	deploymentKind().PrepareForCreate(t.Context(), d)
	check(t, d, 1, 3, 0)
}

func TestTheMainDoorKeepsTheStatusAndCountsSpecs(t *testing.T) {
	stored := deployment(4, 3, 2)
	same, changed := deployment(4, 3, 9), deployment(4, 5, 9)
	deploymentKind().PrepareForUpdate(t.Context(), same, stored)
	check(t, same, 4, 3, 2)
	deploymentKind().PrepareForUpdate(t.Context(), changed, stored)
	check(t, changed, 5, 5, 2)
}

func TestTheStatusDoorKeepsTheSpecAndTakesMetadata(t *testing.T) {
	stored, d := deployment(4, 3, 2), deployment(4, 5, 3)
	d.Finalizers = []string{"viaduct.dev/test"}
	statusStrategy[*appsv1.Deployment]{deploymentKind()}.PrepareForUpdate(t.Context(), d, stored)
	check(t, d, 4, 3, 3)
	if len(d.Finalizers) != 1 {
		t.Error("the finalizer is lost")
	}
}

func TestEachDoorNamesWhatItIgnores(t *testing.T) {
	main := deploymentKind()
	if got := main.GetResetFields()["apps/v1"].String(); got != ".status" {
		t.Errorf("the main door ignores %s", got)
	}
	status := statusStrategy[*appsv1.Deployment]{main}
	if got := status.GetResetFields()["apps/v1"].String(); got != ".spec" {
		t.Errorf("the status door ignores %s", got)
	}
}

func TestTheNameIsChecked(t *testing.T) {
	d := deployment(1, 1, 0)
	if errs := deploymentKind().Validate(t.Context(), d); len(errs) != 0 {
		t.Errorf("got %v", errs)
	}
	d.Name = "Web"
	if errs := deploymentKind().Validate(t.Context(), d); len(errs) != 1 || errs[0].Field != "metadata.name" {
		t.Errorf("got %v", errs)
	}
}

func TestOneResourceIsServedOnce(t *testing.T) {
	r := &Resources{}
	if err := r.Add(appsv1.SchemeGroupVersion, "deployments", nil); err != nil {
		t.Fatal(err)
	}
	if err := r.Add(appsv1.SchemeGroupVersion, "deployments", nil); err == nil {
		t.Error("a second one was added")
	}
}
