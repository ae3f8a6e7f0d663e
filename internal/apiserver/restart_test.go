package apiserver

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"viaduct.dev/viaduct/internal/pki"
)

func TestObjectsSurviveARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := start(t, dir)
	created, err := c.client.CoreV1().ConfigMaps("default").Create(t.Context(), configMap("kept", "1"), metav1.CreateOptions{})
	must(t, err)
	c.stop()
	c = start(t, dir)
	kept, err := c.client.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{})
	must(t, err)
	if kept.UID != created.UID || kept.ResourceVersion != created.ResourceVersion {
		t.Errorf("got %s at %s, want %s at %s", kept.UID, kept.ResourceVersion, created.UID, created.ResourceVersion)
	}
}

// writerEnv makes the test binary a server that writes until it is killed, and
// says what was acknowledged.
const writerEnv = "VIADUCT_TEST_WRITER"

func TestNothingAcknowledgedIsLostByAKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const enough = 2500 // past the first snapshot
	self, err := os.Executable()
	must(t, err)
	writer := exec.Command(self)
	writer.Env = append(os.Environ(), writerEnv+"="+dir)
	writer.Stderr = os.Stderr
	stdout, err := writer.StdoutPipe()
	must(t, err)
	must(t, writer.Start())
	defer func() { _ = writer.Process.Kill() }()

	var acknowledged []string
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		acknowledged = append(acknowledged, lines.Text())
		if len(acknowledged) == enough {
			must(t, writer.Process.Kill())
		}
	}
	_ = writer.Wait()
	if len(acknowledged) < enough {
		t.Fatalf("only %d writes were acknowledged", len(acknowledged))
	}

	c := start(t, dir)
	list, err := c.client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	have := map[string]bool{}
	for _, m := range list.Items {
		have[m.Name] = true
	}
	for _, name := range acknowledged {
		if !have[name] {
			t.Errorf("%s was acknowledged and is lost", name)
		}
	}
}

// writeUntilKilled is the other process of that test.
func writeUntilKilled(dir string) error {
	ca, err := pki.Open(dir + "/pki")
	if err != nil {
		return err
	}
	serving, err := ca.Ensure("apiserver", pki.APIServer(nil, nil, "cluster.local"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := New(ctx, Config{
		DataDir: dir + "/data", ServingCert: serving.CertPEM, ServingKey: serving.KeyPEM, ClientCA: ca.CertPEM(),
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
		Log:          slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		return err
	}
	go func() {
		<-s.Ready()
		client, err := kubernetes.NewForConfig(s.ClientConfig())
		if err != nil {
			panic(err)
		}
		for writer := range 16 {
			go func() {
				var err error
				for i := 0; err == nil; i++ {
					m := configMap(fmt.Sprintf("write-%d-%d", writer, i), "x")
					if _, err = client.CoreV1().ConfigMaps("default").Create(ctx, m, metav1.CreateOptions{}); err == nil {
						fmt.Println(m.Name)
					}
				}
				fmt.Fprintln(os.Stderr, err)
			}()
		}
	}()
	return s.Run(ctx)
}

func TestTwoServersCannotShareADirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start(t, dir)
	ca, err := pki.Open(dir + "/pki")
	must(t, err)
	serving, err := ca.Ensure("apiserver", pki.APIServer(nil, nil, "cluster.local"))
	must(t, err)
	_, err = New(t.Context(), Config{
		DataDir: dir + "/data", ServingCert: serving.CertPEM, ServingKey: serving.KeyPEM, ClientCA: ca.CertPEM(),
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
		Log:          slog.New(slog.DiscardHandler),
	})
	if err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("got %v", err)
	}
}
