package apiserver

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"viaduct.dev/viaduct/internal/pki"
)

// cluster is a running server of a test.
type cluster struct {
	*Server
	kubeconfig []byte
	client     kubernetes.Interface
	stop       func()
}

// start runs a server on dir; it is stopped at the end of the test, or before.
func start(t *testing.T, dir string) *cluster {
	t.Helper()
	began := time.Now()
	cidrs := []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:10:96::/112")}
	ca, err := pki.Open(dir + "/pki")
	must(t, err)
	serving, err := ca.Ensure("apiserver", pki.APIServer(nil, cidrs, "cluster.local"))
	must(t, err)
	admin, err := ca.Ensure("admin", pki.Client("admin", "system:masters"))
	must(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)

	ctx, cancel := context.WithCancel(context.Background())
	s, err := New(ctx, Config{
		DataDir:            dir + "/data",
		Listeners:          []net.Listener{listener},
		ServingCert:        serving.CertPEM,
		ServingKey:         serving.KeyPEM,
		ClientCA:           ca.CertPEM(),
		ServiceCIDRs:       cidrs,
		NodePorts:          utilnet.PortRange{Base: 30000, Size: 2768},
		AdvertiseAddresses: []netip.Addr{netip.MustParseAddr("172.20.0.11"), netip.MustParseAddr("fd00:172:20::11")},
		AdvertisePort:      6443,
		Log:                slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: logLevel()})),
	})
	must(t, err)
	made := time.Since(began)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	c := &cluster{Server: s}
	c.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the server ended with %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the server did not end")
		}
	}
	t.Cleanup(c.stop)
	select {
	case <-s.Ready():
		t.Logf("made in %v, ready in %v", made, time.Since(began))
	case err := <-done:
		t.Fatalf("the server ended: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("the server is not ready")
	}
	c.kubeconfig, err = pki.Kubeconfig("test", "https://"+listener.Addr().String(), ca.CertPEM(), admin)
	must(t, err)
	c.client, err = kubernetes.NewForConfig(rest.CopyConfig(s.ClientConfig()))
	must(t, err)
	return c
}

func logLevel() slog.Level {
	if os.Getenv("VIADUCT_TEST_DEBUG") != "" {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	_, _ = os.Stderr.Write(p)
	return len(p), nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDefaultNamespacesAreThere(t *testing.T) {
	c := start(t, t.TempDir())
	list, err := c.client.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
	must(t, err)
	if len(list.Items) != 4 {
		t.Errorf("%d namespaces, want 4", len(list.Items))
	}
}
