package apiserver

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"viaduct.dev/viaduct/internal/pki"
)

// cluster is a running server of a test.
type cluster struct {
	*Server
	kubeconfig []byte
	inherited  string // the URL of the second listener
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
	inherited := inherit(t)

	ctx, cancel := context.WithCancel(context.Background())
	s, err := New(ctx, Config{
		DataDir:            dir + "/data",
		Listeners:          []net.Listener{listener, inherited},
		ServingCert:        serving.CertPEM,
		ServingKey:         serving.KeyPEM,
		ClientCA:           ca.CertPEM(),
		ServiceCIDRs:       cidrs,
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
	c.inherited = "https://" + inherited.Addr().String()
	c.kubeconfig, err = pki.Kubeconfig("test", "https://"+listener.Addr().String(), ca.CertPEM(), admin)
	must(t, err)
	c.client, err = kubernetes.NewForConfig(rest.CopyConfig(s.ClientConfig()))
	must(t, err)
	return c
}

// inherit is a listener as another process would pass it: by its descriptor.
func inherit(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	f, err := l.(*net.TCPListener).File()
	must(t, err)
	must(t, l.Close())
	inherited, err := net.FileListener(f)
	must(t, err)
	must(t, f.Close())
	return inherited
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
	t.Parallel()
	c := start(t, t.TempDir())
	list, err := c.client.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
	must(t, err)
	if len(list.Items) != 4 {
		t.Errorf("%d namespaces, want 4", len(list.Items))
	}
}

func TestEveryListenerIsServed(t *testing.T) {
	t.Parallel()
	c := start(t, t.TempDir())
	config := overTLS(t, c)
	for _, host := range []string{config.Host, c.inherited} {
		config.Host = host
		_, err := clientOf(t, config).CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
		if err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	for want, cfg := range map[string]Config{
		"Log is missing":           {},
		"ServiceCIDRs are missing": {Log: log},
		"AdvertisePort is missing": {Log: log, ServiceCIDRs: prefixes("10.96.0.0/12"), AdvertiseAddresses: addrs("172.20.0.11")},
		"serving certificate":      {Log: log, ServiceCIDRs: prefixes("10.96.0.0/12")},
	} {
		cfg.DataDir = t.TempDir()
		if _, err := New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestEventsHaveALifetime(t *testing.T) {
	t.Parallel()
	c := start(t, t.TempDir())
	event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "brief"}, InvolvedObject: corev1.ObjectReference{Kind: "Namespace", Name: "default"}}
	_, err := c.client.CoreV1().Events("default").Create(t.Context(), event, metav1.CreateOptions{})
	must(t, err)
	etcd := c.store.Client()
	stored, err := etcd.Get(t.Context(), "/registry/events/default/brief")
	must(t, err)
	if len(stored.Kvs) != 1 || stored.Kvs[0].Lease == 0 {
		t.Fatalf("stored as %v", stored.Kvs)
	}
	lifetime, err := etcd.TimeToLive(t.Context(), clientv3.LeaseID(stored.Kvs[0].Lease))
	must(t, err)
	// Leases are shared by what is written within a minute or so.
	if lifetime.GrantedTTL < 3600 || lifetime.GrantedTTL > 4000 {
		t.Errorf("lives for %d s, want an hour", lifetime.GrantedTTL)
	}
}
