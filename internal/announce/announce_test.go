package announce

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"pgregory.net/rapid"

	"viaduct.dev/viaduct/internal/lab"
	"viaduct.dev/viaduct/internal/lab/labtest"
)

func TestOnlyAddressesOfANodeThatGoesMove(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "nodes")
		var nodes []string
		for i := range n {
			nodes = append(nodes, fmt.Sprintf("node-%d", i+1))
		}
		gone := rapid.IntRange(0, n-1).Draw(t, "gone")
		rest := append(append([]string(nil), nodes[:gone]...), nodes[gone+1:]...)
		for i := range 50 {
			a := netip.AddrFrom4([4]byte{172, 20, 255, byte(i)})
			before, after := Owner(a, nodes), Owner(a, rest)
			if before != nodes[gone] && before != after {
				t.Fatalf("%s moved from %s to %s when %s went", a, before, after, nodes[gone])
			}
		}
	})
}

func TestAddressesAreSpread(t *testing.T) {
	count := map[string]int{}
	for i := range 250 {
		count[Owner(netip.AddrFrom4([4]byte{172, 20, 255, byte(i)}), []string{"node-1", "node-2", "node-3"})]++
	}
	for n, c := range count {
		if c < 50 {
			t.Errorf("%s has %d of 250", n, c)
		}
	}
}

func node(name string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
}

func TestAHostThatIsNoNodeReachesTheAddressAndAgainAfterANodeIsLost(t *testing.T) {
	fabric, host := labtest.New(t), labtest.New(t)
	must(t, fabric.AddBridge("fabric"))
	join := func(ns *lab.Namespace, port string, last int) {
		must(t, lab.Connect(ns, "eth0", fabric, port))
		must(t, fabric.Enslave(port, "fabric"))
		must(t, ns.AddAddress("eth0", netip.MustParsePrefix(fmt.Sprintf("172.20.0.%d/16", last))))
		must(t, ns.AddAddress("eth0", netip.MustParsePrefix(fmt.Sprintf("fd00:172:20::%d/64", last))))
	}
	join(host, "host", 200)
	addrs := []netip.Addr{netip.MustParseAddr("172.20.255.7"), netip.MustParseAddr("fd00:172:20::ff07")}
	client := fake.NewClientset(
		node("node-1", corev1.ConditionTrue), node("node-2", corev1.ConditionTrue),
		&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "lb"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
			Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: addrs[0].String()}, {IP: addrs[1].String()}}}},
		})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	for i, name := range []string{"node-1", "node-2"} {
		ns := labtest.New(t)
		join(ns, name, 11+i)
		// Where the proxy's rules would be: packets for the addresses are local.
		for _, a := range addrs {
			must(t, ns.AddAddress("lo", netip.PrefixFrom(a, a.BitLen())))
			l, err := ns.Listen(ctx, "tcp", netip.AddrPortFrom(a, 80).String())
			must(t, err)
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					io.WriteString(c, name)
					c.Close()
				}
			}()
		}
		// The address must be answered for by us alone, not by the kernel.
		must(t, ns.Sysctl("net.ipv4.conf.all.arp_ignore", "1"))
		go func() {
			ended <- ns.Do(func() error {
				return Run(ctx, Config{
					NodeName: name, Interface: "eth0", Informers: informers.NewSharedInformerFactory(client, 0),
					Pools: []netip.Prefix{netip.MustParsePrefix("172.20.255.0/24"), netip.MustParsePrefix("fd00:172:20::ff00/120")},
					Log:   slog.New(slog.DiscardHandler),
				})
			})
		}()
	}
	defer func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}()
	answeredBy := func(a netip.Addr, want string) {
		t.Helper()
		deadline := time.Now().Add(10 * time.Second)
		for {
			got, err := ask(host, a)
			if err == nil && got == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %q %v, want %s", a, got, err, want)
			}
		}
	}
	for _, a := range addrs {
		answeredBy(a, Owner(a, []string{"node-1", "node-2"}))
	}
	lost := Owner(addrs[0], []string{"node-1", "node-2"})
	other := map[string]string{"node-1": "node-2", "node-2": "node-1"}[lost]
	_, err := client.CoreV1().Nodes().UpdateStatus(t.Context(), node(lost, corev1.ConditionUnknown), metav1.UpdateOptions{})
	must(t, err)
	for _, a := range addrs {
		answeredBy(a, other)
	}
}

func ask(from *lab.Namespace, a netip.Addr) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := from.DialContext(ctx, "tcp", netip.AddrPortFrom(a, 80).String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	b, err := io.ReadAll(c)
	return string(b), err
}

func FuzzParseARP(f *testing.F) {
	f.Add(make([]byte, arpSize))
	f.Fuzz(func(t *testing.T, p []byte) {
		if _, mac, _, _, ok := parseARP(p); ok && len(mac) != 6 {
			t.Errorf("a hardware address of %d bytes", len(mac))
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
