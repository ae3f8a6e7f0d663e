package scheme

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestEveryKindHasAHubVersionOfTheSameType(t *testing.T) {
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range groups() {
		internal := s.Hub.KnownTypes(Internal(group.version.Group))
		found := 0
		for kind, goType := range s.OpenAPI.KnownTypes(group.version) {
			if hub, ok := internal[kind]; ok && hub == goType {
				found++
			}
		}
		if found < 2 {
			t.Errorf("%s: only %d kinds have a hub version", group.version, found)
		}
	}
	if internal := s.OpenAPI.KnownTypes(Internal("")); internal["Pod"] != nil {
		t.Error("the scheme of the OpenAPI document has hub versions")
	}
}

func TestConversionChangesTheTypeMetaAlone(t *testing.T) {
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}}
	hub, err := s.Hub.ConvertToVersion(pod, Internal(""))
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := hub.(*corev1.Pod); !ok || got.Name != "web" {
		t.Errorf("got %T %v", hub, hub)
	}
	codec := s.Codecs.LegacyCodec(corev1.SchemeGroupVersion)
	data, err := runtime.Encode(codec, hub)
	if err != nil {
		t.Fatal(err)
	}
	back, err := runtime.Decode(codec, data)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := back.(*corev1.Pod); !ok || got.Name != "web" {
		t.Errorf("got %T %v", back, back)
	}
}
