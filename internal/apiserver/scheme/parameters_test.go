package scheme

import (
	"net/url"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
)

func TestConnectionOptionsAreReadFromTheQuery(t *testing.T) {
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		query string
		into  runtime.Object
		want  runtime.Object
	}{
		{
			"container=web&follow=true&tailLines=5&timestamps=0&stream=Stderr", &corev1.PodLogOptions{},
			&corev1.PodLogOptions{Container: "web", Follow: true, TailLines: ptr.To[int64](5), Stream: ptr.To("Stderr")},
		},
		{
			"command=ls&command=-l&stdout=1&tty=true", &corev1.PodExecOptions{},
			&corev1.PodExecOptions{Command: []string{"ls", "-l"}, Stdout: true, TTY: true},
		},
		{"stdin=true&container=a", &corev1.PodAttachOptions{}, &corev1.PodAttachOptions{Stdin: true, Container: "a"}},
		{"ports=80&ports=443", &corev1.PodPortForwardOptions{}, &corev1.PodPortForwardOptions{Ports: []int32{80, 443}}},
	}
	for _, tt := range tests {
		t.Run(tt.query, func(t *testing.T) {
			values, err := url.ParseQuery(tt.query)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Parameters.DecodeParameters(values, corev1.SchemeGroupVersion, tt.into); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(tt.into, tt.want) {
				t.Errorf("got %v, want %v", tt.into, tt.want)
			}
		})
	}
}

func TestANumberThatIsNoneIsAnError(t *testing.T) {
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	for query, into := range map[string]runtime.Object{
		"tailLines=many": &corev1.PodLogOptions{},
		"ports=http":     &corev1.PodPortForwardOptions{},
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Parameters.DecodeParameters(values, corev1.SchemeGroupVersion, into); err == nil {
			t.Errorf("%s was read as %v", query, into)
		}
	}
}
