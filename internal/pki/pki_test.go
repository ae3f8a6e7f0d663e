package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

var (
	nodeAddrs    = []netip.Addr{netip.MustParseAddr("172.20.0.11"), netip.MustParseAddr("fd00:172:20::11")}
	serviceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:10:96::/112")}
)

func open(t *testing.T, dir string) *Authority {
	t.Helper()
	ca, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func ensure(t *testing.T, ca *Authority, name string, r Request) Certificate {
	t.Helper()
	c, err := ca.Ensure(name, r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestServingCertificateStatesEveryNameOfTheAPI(t *testing.T) {
	ca := open(t, t.TempDir())
	c := ensure(t, ca, "apiserver", APIServer(nodeAddrs, serviceCIDRs, "cluster.local"))
	pair, err := c.TLS()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"localhost", "127.0.0.1", "::1", "172.20.0.11", "fd00:172:20::11", "10.96.0.1", "fd00:10:96::1",
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
	} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: ca.Pool()}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEnsureKeepsACertificateThatStillSaysWhatIsAsked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	r := APIServer(nodeAddrs, serviceCIDRs, "cluster.local")
	first := ensure(t, open(t, dir), "apiserver", r)
	second := ensure(t, open(t, dir), "apiserver", r)
	if !bytes.Equal(first.CertPEM, second.CertPEM) || !bytes.Equal(first.KeyPEM, second.KeyPEM) {
		t.Error("the same request gave another certificate")
	}
}

func TestEnsureIssuesAnewWhatNoLongerFits(t *testing.T) {
	r := Agent("node-1", nodeAddrs)
	moved := Agent("node-1", nodeAddrs[:1])
	tests := []struct {
		name   string
		change func(t *testing.T, c Certificate)
		ask    Request
	}{
		{"another address is asked", func(*testing.T, Certificate) {}, moved},
		{"the key file is empty", func(t *testing.T, c Certificate) { write(t, c.KeyFile, nil) }, r},
		{"the certificate is gone", func(t *testing.T, c Certificate) { remove(t, c.CertFile) }, r},
		{"another authority signed it", func(t *testing.T, c Certificate) {
			other, err := open(t, t.TempDir()).Issue(r)
			if err != nil {
				t.Fatal(err)
			}
			write(t, c.CertFile, other.CertPEM)
			write(t, c.KeyFile, other.KeyPEM)
		}, r},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ca := open(t, t.TempDir())
			old := ensure(t, ca, "agent", r)
			tt.change(t, old)
			renewed := ensure(t, ca, "agent", tt.ask)
			if bytes.Equal(old.CertPEM, renewed.CertPEM) {
				t.Fatal("the old certificate was kept")
			}
			pair, err := renewed.TLS()
			if err != nil {
				t.Fatal(err)
			}
			if err := pair.Leaf.CheckSignatureFrom(ca.cert); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOpenRefusesADamagedAuthority(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	write(t, filepath.Join(dir, "ca.key"), []byte("nonsense"))
	if _, err := Open(dir); err == nil {
		t.Error("a damaged authority was opened")
	}
}

func TestFilesAreForTheirOwnerAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	ensure(t, open(t, dir), "admin", Client("admin", "system:masters"))
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 4 {
		t.Errorf("%d files, want ca and admin, certificate and key", len(entries))
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", entry.Name(), info.Mode())
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v %v", info, err)
	}
}

func TestKubeconfigReachesAServerThatAsksForACertificate(t *testing.T) {
	ca := open(t, t.TempDir())
	pair, err := ensure(t, ca, "apiserver", APIServer(nil, nil, "cluster.local")).TLS()
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		subject := r.TLS.PeerCertificates[0].Subject
		_, _ = w.Write([]byte(subject.CommonName + " of " + subject.Organization[0]))
	}))
	srv.TLS = &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    ca.Pool(),
	}
	srv.StartTLS()
	defer srv.Close()

	data, err := Kubeconfig("viaduct", srv.URL, ca.CertPEM(), ensure(t, ca, "admin", Client("admin", "system:masters")))
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Get(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(body), "admin of system:masters"; got != want {
		t.Errorf("server saw %q, want %q", got, want)
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
