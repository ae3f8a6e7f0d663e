package agent

import (
	"archive/tar"
	"bytes"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"

	"viaduct.dev/viaduct/internal/agent/runtime/builtin"
	"viaduct.dev/viaduct/internal/images"
)

// load brings an image into the node's store, made from the toolbox's program.
func (n *testNode) load(ref string) {
	n.t.Helper()
	toolbox, err := builtin.Toolbox()
	if err != nil {
		n.t.Fatal(err)
	}
	var content bytes.Buffer
	w := tar.NewWriter(&content)
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "app", Mode: 0o755, Size: int64(len(toolbox))})
	w.Write(toolbox)
	w.Close()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content.Bytes())), nil })
	if err != nil {
		n.t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err == nil {
		img, err = mutate.Config(img, v1.Config{Entrypoint: []string{"/app"}, Cmd: []string{"echo", "come"}})
	}
	if err != nil {
		n.t.Fatal(err)
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		n.t.Fatal(err)
	}
	path := filepath.Join(n.t.TempDir(), "image.tar")
	if err := tarball.WriteToFile(path, tag, img); err != nil {
		n.t.Fatal(err)
	}
	if _, err := n.cfg.Images.(*images.Store).Load(n.t.Context(), path); err != nil {
		n.t.Fatal(err)
	}
}

func TestContainerStartsWhenItsImageHasCome(t *testing.T) {
	n := newTestNode(t)
	n.pod("waits", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "team/late:1", corev1.PullNever
	})
	n.until("waits", "waiting", func(p *corev1.Pod) bool {
		return p != nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "ErrImageNeverPull"
	})
	n.load("team/late:1")
	come := time.Now()
	n.until("waits", "succeeded", func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == corev1.PodSucceeded })
	if took := time.Since(come); took > imageRetry/2 {
		t.Errorf("it was seen after %s", took)
	}
	if text := n.logs("waits", ""); text != "come\n" {
		t.Errorf("log %q", text)
	}
}
