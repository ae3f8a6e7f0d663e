package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"viaduct.dev/viaduct/internal/lab"
	"viaduct.dev/viaduct/internal/lab/labtest"
)

// network is a node with two Pods, a backend elsewhere, and a host that is no
// node:
//
//	pod-1, pod-2 --- node --- outside
//	                  `------ far (a Pod's address on another node)
type network struct {
	node, outside, far *lab.Namespace
	pods               [2]*lab.Namespace
	client             *fake.Clientset
	proxy              *Proxy
	events             *record.FakeRecorder
	stop               func()
	start              func()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func newNetwork(t *testing.T) *network {
	n := &network{node: labtest.New(t), outside: labtest.New(t), far: labtest.New(t), client: fake.NewClientset(), events: record.NewFakeRecorder(100)}
	must(t, n.node.Sysctl("net.ipv4.conf.all.rp_filter", "0"))
	must(t, n.node.Sysctl("net.ipv4.conf.default.rp_filter", "0"))
	// As on a node: a redirect would use up what the ICMP rate limit allows.
	must(t, n.node.Sysctl("net.ipv4.conf.all.send_redirects", "0"))
	must(t, n.node.Sysctl("net.ipv4.conf.default.send_redirects", "0"))
	join := func(other *lab.Namespace, link, v4, v6 string, nodeV4, nodeV6 string) {
		must(t, lab.Connect(n.node, link, other, "eth0"))
		must(t, n.node.AddAddress(link, prefix(nodeV4)))
		must(t, n.node.AddAddress(link, prefix(nodeV6)))
		must(t, other.AddAddress("eth0", prefix(v4)))
		must(t, other.AddAddress("eth0", prefix(v6)))
		must(t, other.AddRoute(prefix("0.0.0.0/0"), prefix(nodeV4).Addr()))
		must(t, other.AddRoute(prefix("::/0"), prefix(nodeV6).Addr()))
	}
	join(n.outside, "eth0", "172.20.0.200/24", "fd00:172:20::c8/64", "172.20.0.11/24", "fd00:172:20::b/64")
	join(n.far, "far0", "10.244.9.2/24", "fd00:10:244:9::2/64", "10.244.9.1/24", "fd00:10:244:9::1/64")
	for i := range n.pods {
		n.pods[i] = labtest.New(t)
		join(n.pods[i], fmt.Sprintf("pod%d", i),
			fmt.Sprintf("10.244.0.%d/30", 4*i+2), fmt.Sprintf("fd00:10:244::%d:2/112", i),
			fmt.Sprintf("10.244.0.%d/30", 4*i+1), fmt.Sprintf("fd00:10:244::%d:1/112", i))
	}
	n.start = func() {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		n.proxy = New(Config{
			NodeName: "node-1", Events: n.events, Informers: informers.NewSharedInformerFactory(n.client, 0), Prepare: true,
			NodeIPs:      []netip.Addr{netip.MustParseAddr("172.20.0.11"), netip.MustParseAddr("fd00:172:20::b")},
			Masquerade:   []netip.Addr{netip.MustParseAddr("172.20.0.11"), netip.MustParseAddr("fd00:172:20::b")},
			ServiceCIDRs: []netip.Prefix{prefix("10.96.0.0/12"), prefix("fd00:10:96::/112")},
			ClusterCIDRs: []netip.Prefix{prefix("10.244.0.0/16"), prefix("fd00:10:244::/56")},
			Log:          slog.New(slog.NewTextHandler(t.Output(), nil)),
		})
		go func() { done <- n.node.Do(func() error { return n.proxy.Run(ctx) }) }()
		n.stop = func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			n.stop = func() {}
		}
		select {
		case <-n.proxy.Ready():
		case err := <-done:
			done <- err
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { n.stop() })
	n.start()
	return n
}

func (n *network) await(t testing.TB, ok func() bool) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatal("it did not happen in 5 s")
		case <-tick.C:
		}
	}
}

// programmed waits until the kernel holds that revision.
func (n *network) programmed(t testing.TB, version uint64) {
	t.Helper()
	n.await(t, func() bool {
		r := n.proxy.Programmed()
		return max(r.Services, r.EndpointSlices) >= version
	})
}

// echo answers every connection and datagram with its name and who it saw.
func echo(t *testing.T, ns *lab.Namespace, name string) {
	for _, addr := range []string{"0.0.0.0:8080", "[::]:8080"} {
		network := map[bool]string{true: "4", false: "6"}[addr[0] == '0']
		l, err := ns.Listen(t.Context(), "tcp"+network, addr)
		must(t, err)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "%s %s", name, c.RemoteAddr())
				c.Close()
			}
		}()
		var u net.PacketConn
		must(t, ns.Do(func() (err error) { u, err = net.ListenPacket("udp"+network, addr); return err }))
		t.Cleanup(func() { u.Close() })
		go func() {
			buf := make([]byte, 100)
			for {
				_, from, err := u.ReadFrom(buf)
				if err != nil {
					return
				}
				u.WriteTo([]byte(name+" "+from.String()), from)
			}
		}()
	}
}

// ask is what answers, and the address that it saw.
func ask(from *lab.Namespace, network, to string) (name string, saw netip.Addr, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	c, err := from.DialContext(ctx, network, to)
	if err != nil {
		return "", saw, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(3 * time.Second))
	buf := make([]byte, 200)
	if network == "udp" {
		fmt.Fprint(c, "hello")
	}
	k, err := c.Read(buf)
	if err != nil && err != io.EOF {
		return "", saw, err
	}
	name, peer, _ := strings.Cut(string(buf[:k]), " ")
	ap, err := netip.ParseAddrPort(peer)
	return name, ap.Addr().Unmap(), err
}

func (n *network) service(t *testing.T, version string, change func(*corev1.Service)) {
	t.Helper()
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", ResourceVersion: version},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1", "fd00:10:96::1"},
			ExternalIPs: []string{"192.0.2.7", "2001:db8::7"},
			Ports: []corev1.ServicePort{
				{Name: "tcp", Port: 80, NodePort: 30080, Protocol: corev1.ProtocolTCP},
				{Name: "udp", Port: 80, NodePort: 30080, Protocol: corev1.ProtocolUDP},
			},
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "172.20.255.1"}, {IP: "fd00:172:20::ff01"}}}},
	}
	if change != nil {
		change(s)
	}
	gvr := corev1.SchemeGroupVersion.WithResource("services")
	if err := n.client.Tracker().Update(gvr, s, "default"); err != nil {
		must(t, n.client.Tracker().Create(gvr, s, "default"))
	}
	n.programmed(t, atoi(version))
}

func atoi(s string) (v uint64) { fmt.Sscan(s, &v); return v }

// endpoints sets the backends of web; those in 10.244.0 and fd00:10:244:: are here.
func (n *network) endpoints(t *testing.T, version string, v4, v6 []string) {
	t.Helper()
	for i, addrs := range [][]string{v4, v6} {
		family := []discoveryv1.AddressType{"IPv4", "IPv6"}[i]
		version := fmt.Sprint(atoi(version) + uint64(i))
		s := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-" + strings.ToLower(string(family)), ResourceVersion: version, Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			AddressType: family,
		}
		for _, proto := range []corev1.Protocol{"TCP", "UDP"} {
			name, port := strings.ToLower(string(proto)), int32(8080)
			s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &name, Port: &port, Protocol: &proto})
		}
		for _, a := range addrs {
			node := "node-9"
			if strings.HasPrefix(a, "10.244.0.") || strings.HasPrefix(a, "fd00:10:244::") {
				node = "node-1"
			}
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, NodeName: &node})
		}
		gvr := discoveryv1.SchemeGroupVersion.WithResource("endpointslices")
		if err := n.client.Tracker().Update(gvr, s, "default"); err != nil {
			must(t, n.client.Tracker().Create(gvr, s, "default"))
		}
		n.await(t, func() bool {
			list, err := n.client.DiscoveryV1().EndpointSlices("default").Get(t.Context(), s.Name, metav1.GetOptions{})
			return err == nil && list.ResourceVersion == version
		})
		n.programmed(t, atoi(version))
	}
}

var everyWay = map[string][2]string{
	"cluster IP":       {"10.96.0.1:80", "[fd00:10:96::1]:80"},
	"external IP":      {"192.0.2.7:80", "[2001:db8::7]:80"},
	"load-balancer IP": {"172.20.255.1:80", "[fd00:172:20::ff01]:80"},
	"node port":        {"172.20.0.11:30080", "[fd00:172:20::b]:30080"},
}

func TestEveryKindOfServiceAnswersEverywhere(t *testing.T) {
	n := newNetwork(t)
	echo(t, n.far, "far")
	must(t, n.outside.AddRoute(prefix("172.20.255.0/24"), netip.MustParseAddr("172.20.0.11")))
	must(t, n.outside.AddRoute(prefix("fd00:172:20::ff00/120"), netip.MustParseAddr("fd00:172:20::b")))
	must(t, n.node.AddRoute(prefix("0.0.0.0/0"), netip.MustParseAddr("172.20.0.200")))
	must(t, n.node.AddRoute(prefix("::/0"), netip.MustParseAddr("fd00:172:20::c8")))
	n.service(t, "100", nil)
	n.endpoints(t, "200", []string{"10.244.9.2"}, []string{"fd00:10:244:9::2"})
	out, err := command(n.node, "nft", "list", "ruleset")
	if err != nil || !strings.Contains(out, `10.96.0.1 . tcp . 80 comment "default/web:tcp" : `) || strings.Contains(out, "iface_type") {
		t.Errorf("nft list ruleset: %v\n%s", err, out)
	}
	for place, ns := range map[string]*lab.Namespace{"pod": n.pods[0], "node": n.node, "outside": n.outside} {
		for way, addresses := range everyWay {
			for i, to := range addresses {
				for _, network := range []string{"tcp", "udp"} {
					name, saw, err := ask(ns, network, to)
					if err != nil || name != "far" {
						t.Errorf("%s over %s to %s %s: %q, %v", place, network, way, to, name, err)
						continue
					}
					// A Pod keeps its address on the way to a cluster IP. On the ways
					// from outside, with the policy Cluster, everybody is hidden, so
					// that the answer finds back through this node.
					want := []string{"172.20.0.11", "fd00:172:20::b"}[i]
					if place == "pod" && way == "cluster IP" {
						want = []string{"10.244.0.2", "fd00:10:244::2"}[i]
					}
					if saw.String() != want {
						t.Errorf("%s over %s to %s %s: the backend saw %s, not %s", place, network, way, to, saw, want)
					}
				}
			}
		}
	}
}

func command(ns *lab.Namespace, name string, arg ...string) (string, error) {
	var out strings.Builder
	cmd := exec.Command(name, arg...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := ns.Start(cmd); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

func TestWithoutEndpointsEveryConnectionIsRefusedAtOnce(t *testing.T) {
	n := newNetwork(t)
	n.service(t, "100", nil)
	for place, ns := range map[string]*lab.Namespace{"pod": n.pods[0], "node": n.node, "outside": n.outside} {
		for i := range 100 {
			for _, to := range []string{"10.96.0.1:80", "[fd00:10:96::1]:80", "172.20.0.11:30080", "10.96.7.7:1234", "[fd00:10:96::7]:99"} {
				if _, _, err := ask(ns, "tcp", to); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Fatalf("%s, connect %d to %s: %v", place, i, to, err)
				}
			}
		}
		if _, _, err := ask(ns, "udp", "10.96.0.1:80"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s over udp: %v", place, err)
		}
	}
}

func TestAPodReachesItselfThroughItsService(t *testing.T) {
	n := newNetwork(t)
	echo(t, n.pods[0], "pod-0")
	n.service(t, "100", nil)
	n.endpoints(t, "200", []string{"10.244.0.2"}, []string{"fd00:10:244::2"})
	for _, to := range []string{"10.96.0.1:80", "172.20.0.11:30080", "192.0.2.7:80"} {
		for _, network := range []string{"tcp", "udp"} {
			if name, saw, err := ask(n.pods[0], network, to); err != nil || name != "pod-0" || saw.String() == "10.244.0.2" {
				t.Errorf("%s to %s: %q saw %s, %v", network, to, name, saw, err)
			}
		}
	}
}
