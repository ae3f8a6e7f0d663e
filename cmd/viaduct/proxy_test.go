package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"viaduct.dev/viaduct/internal/apiserver"
	"viaduct.dev/viaduct/internal/lab"
	"viaduct.dev/viaduct/internal/lab/labtest"
	"viaduct.dev/viaduct/internal/pki"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// machine is a node with an API server of its own and two backends, a and b:
// enough for `viaduct proxy` to be run as its users do.
type machine struct {
	node, a, b *lab.Namespace
	dir, state string
	address    string // of the API
	client     kubernetes.Interface
	stopAPI    func()
}

func newMachine(t *testing.T) *machine {
	m := &machine{node: labtest.New(t), a: labtest.New(t), b: labtest.New(t), dir: t.TempDir()}
	m.state = filepath.Join(m.dir, "proxy")
	for i, ns := range []*lab.Namespace{m.a, m.b} {
		link := fmt.Sprintf("eth%d", i)
		must(t, lab.Connect(m.node, link, ns, "eth0"))
		must(t, m.node.AddAddress(link, netip.MustParsePrefix(fmt.Sprintf("10.244.%d.1/24", i))))
		must(t, ns.AddAddress("eth0", netip.MustParsePrefix(fmt.Sprintf("10.244.%d.2/24", i))))
		must(t, ns.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr(fmt.Sprintf("10.244.%d.1", i))))
		l, err := ns.Listen(t.Context(), "tcp4", "0.0.0.0:8080")
		must(t, err)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(c, string(rune('a'+i)))
				c.Close()
			}
		}()
	}
	must(t, m.node.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.244.0.2")))
	must(t, m.node.Sysctl("net.ipv4.ip_forward", "1"))
	m.startAPI(t)
	return m
}

// startAPI runs the API server on the machine's loopback, where it was before.
func (m *machine) startAPI(t *testing.T) {
	t.Helper()
	l, err := m.node.Listen(t.Context(), "tcp4", cmpOr(m.address, "127.0.0.1:0"))
	must(t, err)
	m.address = l.Addr().String()
	cidrs := []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}
	ca, err := pki.Open(filepath.Join(m.dir, "pki"))
	must(t, err)
	serving, err := ca.Ensure("apiserver", pki.APIServer(nil, cidrs, "cluster.local"))
	must(t, err)
	admin, err := ca.Ensure("admin", pki.Client("admin", "system:masters"))
	must(t, err)
	text, err := pki.Kubeconfig("test", "https://"+m.address, ca.CertPEM(), admin)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(m.dir, "kubeconfig"), text, 0o600))
	ctx, cancel := context.WithCancel(context.Background())
	s, err := apiserver.New(ctx, apiserver.Config{
		DataDir: filepath.Join(m.dir, "data"), Listeners: []net.Listener{l}, ServingCert: serving.CertPEM, ServingKey: serving.KeyPEM,
		ClientCA: ca.CertPEM(), ServiceCIDRs: cidrs, Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError})),
	})
	must(t, err)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	m.stopAPI = func() { cancel(); <-done; m.stopAPI = func() {} }
	t.Cleanup(func() { m.stopAPI() })
	<-s.Ready()
	m.client, err = kubernetes.NewForConfig(s.ClientConfig())
	must(t, err)
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// viaduct starts this very program on the machine.
func (m *machine) viaduct(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := &exec.Cmd{Path: self, Args: append([]string{"viaduct"}, args...), Env: os.Environ(), Stdout: t.Output(), Stderr: t.Output()}
	must(t, m.node.Start(cmd))
	return cmd
}

// proxy starts `viaduct proxy`; it is killed at the end of the test.
func (m *machine) proxy(t *testing.T) *exec.Cmd {
	cmd := m.viaduct(t, "proxy", "--kubeconfig", filepath.Join(m.dir, "kubeconfig"), "--hostname-override", "node-1",
		"--cluster-cidr", "10.244.0.0/16", "--state-dir", m.state, "--conntrack-max-per-core", "0", "--oom-score-adj", "0")
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// ask is who answers at an address; empty is nobody.
func (m *machine) ask(to string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c, err := m.node.DialContext(ctx, "tcp", to)
	if err != nil {
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	name, _ := io.ReadAll(c)
	return string(name)
}

func (m *machine) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline, tick := time.After(30*time.Second), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not within 30 s: %s", what)
		case <-tick.C:
		}
	}
}

// web makes Service web, a node port of it, and its endpoint.
func (m *machine) web(t *testing.T, endpoint string) {
	t.Helper()
	services, slices := m.client.CoreV1().Services("default"), m.client.DiscoveryV1().EndpointSlices("default")
	name, port, proto := "http", int32(8080), corev1.ProtocolTCP
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &proto}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{endpoint}}},
	}
	if have, err := slices.Get(t.Context(), "web-1", metav1.GetOptions{}); err == nil {
		slice.ResourceVersion = have.ResourceVersion
		_, err = slices.Update(t.Context(), slice, metav1.UpdateOptions{})
		must(t, err)
		return
	}
	_, err := slices.Create(t.Context(), slice, metav1.CreateOptions{})
	must(t, err)
	_, err = services.Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, ClusterIP: "10.96.0.80",
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, NodePort: 30080}},
		},
	}, metav1.CreateOptions{})
	must(t, err)
}

func (m *machine) output(t *testing.T, name string, arg ...string) string {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(name, arg...)
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, m.node.Start(cmd))
	_ = cmd.Wait()
	return out.String()
}

// Rows NodePort and --nodeport-addresses of features.md, for a node that has no
// Node object yet, gets one, and changes its address.
func TestProxyFollowsItsNode(t *testing.T) {
	m := newMachine(t)
	m.web(t, "10.244.1.2")
	m.proxy(t)
	m.await(t, "the cluster IP answers without a Node", func() bool { return m.ask("10.96.0.80:80") == "b" })
	m.await(t, "the node port is offered where the node would send from", func() bool { return m.ask("10.244.0.1:30080") == "b" })
	must(t, m.node.AddAddress("eth1", netip.MustParsePrefix("10.244.1.77/24")))
	node, err := m.client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}, metav1.CreateOptions{})
	must(t, err)
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.244.1.77"}}
	node, err = m.client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{})
	must(t, err)
	m.await(t, "the node port moves to the Node's address", func() bool {
		return m.ask("10.244.1.77:30080") == "b" && m.ask("10.244.0.1:30080") == ""
	})
	// The address of the Node is there before the interface has it.
	node.Status.Addresses[0].Address = "10.244.1.78"
	_, err = m.client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{})
	must(t, err)
	must(t, m.node.AddAddress("eth1", netip.MustParsePrefix("10.244.1.78/24")))
	m.await(t, "the node port moves to the new address", func() bool { return m.ask("10.244.1.78:30080") == "b" })
}

// A node that boots while the API is away serves what was known last, and
// corrects itself when the API is back.
func TestProxyStartsWithoutTheAPI(t *testing.T) {
	m := newMachine(t)
	m.web(t, "10.244.0.2")
	first := m.proxy(t)
	m.await(t, "the cluster IP answers", func() bool { return m.ask("10.96.0.80:80") == "a" })
	must(t, first.Process.Signal(syscall.SIGTERM))
	if err := first.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	m.web(t, "10.244.1.2") // while nobody looks
	m.stopAPI()
	for _, family := range []string{"ip", "ip6"} { // as after a boot
		m.output(t, "nft", "delete", "table", family, "viaduct")
	}
	if left := m.output(t, "nft", "list", "tables"); strings.Contains(left, "viaduct") {
		t.Fatalf("still there: %s", left)
	}
	m.proxy(t)
	m.await(t, "the last table serves", func() bool { return m.ask("10.96.0.80:80") == "a" })
	m.startAPI(t)
	m.await(t, "the table is the API's", func() bool { return m.ask("10.96.0.80:80") == "b" })
	m.web(t, "10.244.0.2")
	m.await(t, "the watch goes on", func() bool { return m.ask("10.96.0.80:80") == "a" })
}

// kill -9 at any moment fails no connection, and --cleanup leaves nothing of ours
// and all of others'.
func TestProxyIsKilledAndCleanedUp(t *testing.T) {
	m := newMachine(t)
	others := []string{"kube-proxy", "firewalld", "docker"}
	for _, name := range others {
		m.output(t, "nft", "add", "table", "inet", name)
	}
	m.web(t, "10.244.0.2")
	cmd := m.proxy(t)
	m.await(t, "the cluster IP answers", func() bool { return m.ask("10.96.0.80:80") == "a" })
	for round := range 4 {
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
		cmd = m.proxy(t)
		want := []string{"b", "a"}[round%2]
		m.web(t, map[string]string{"a": "10.244.0.2", "b": "10.244.1.2"}[want])
		m.await(t, "the new process carries on", func() bool {
			who := m.ask("10.96.0.80:80")
			if who == "" {
				t.Error("a connection failed")
			}
			return who == want
		})
	}
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	_ = cmd.Wait()
	clean := m.viaduct(t, "proxy", "--cleanup", "--state-dir", m.state)
	must(t, clean.Wait())
	tables := m.output(t, "nft", "list", "tables")
	for _, name := range others {
		if !strings.Contains(tables, name) {
			t.Errorf("table %s is gone", name)
		}
	}
	if _, err := os.Stat(m.state); strings.Contains(tables, "viaduct") || err == nil {
		t.Errorf("left behind: %s, %v", tables, err)
	}
}
