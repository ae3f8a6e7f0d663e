package proxy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func addrs(texts string) (out []netip.Addr) {
	for _, t := range strings.Fields(texts) {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

// Row --nodeport-addresses of features.md, as kube-proxy 1.37 reads it.
func TestNodePortAddressesAreThoseOfTheList(t *testing.T) {
	const links = "127.0.0.1 10.0.0.5 10.1.0.5 169.254.20.10 ::1 2001:db8::5 fd00::5 fe80::5"
	const node = "10.0.0.5 2001:db8::5"
	for _, c := range []struct{ list, node, want string }{
		{"", node, "10.0.0.5 2001:db8::5"},
		{"primary", node, "10.0.0.5 2001:db8::5"},
		{"primary", "10.0.0.5", "10.0.0.5 2001:db8::5 fd00::5"}, // a family that nothing is said of: everywhere
		{"primary", "10.9.9.9", "2001:db8::5 fd00::5"},          // an address that the node does not have
		{"all", node, "10.0.0.5 10.1.0.5 2001:db8::5 fd00::5"},
		{"localhost", node, ""},
		{"localhost primary", node, "10.0.0.5 2001:db8::5"},
		{"10.1.0.0/16", node, "10.1.0.5 2001:db8::5 fd00::5"},
		{"10.1.0.0/16 fd00::/8", node, "10.1.0.5 fd00::5"},
		{"0.0.0.0/0 fd00::/8", node, "10.0.0.5 10.1.0.5 fd00::5"},
		{"169.254.0.0/16 fd00::/8", node, "169.254.20.10 fd00::5"},
		{"primary 10.1.0.0/16", node, "10.0.0.5 10.1.0.5 2001:db8::5"},
	} {
		list, err := ParseNodePortAddresses(strings.Fields(c.list))
		if err != nil {
			t.Fatal(err)
		}
		if got := list.of(addrs(c.node), addrs(links)); fmt.Sprint(got) != fmt.Sprint(addrs(c.want)) {
			t.Errorf("%q with node %s: %v, want %s", c.list, c.node, got, c.want)
		}
	}
	for list, want := range map[string]bool{"": false, "primary": false, "all": false, "0.0.0.0/0": false, "localhost": true, "127.0.0.0/8": true, "::1/128": true} {
		if n, _ := ParseNodePortAddresses(strings.Fields(list)); n.Loopback() != want {
			t.Errorf("%q has node ports on loopback: %v", list, !want)
		}
	}
}

func TestTheNodesAddressesAreTheBestThatAreKnown(t *testing.T) {
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "n"}, {Type: corev1.NodeExternalIP, Address: "192.0.2.9"},
		{Type: corev1.NodeInternalIP, Address: "10.0.0.5"}, {Type: corev1.NodeInternalIP, Address: "10.0.0.6"}, {Type: corev1.NodeInternalIP, Address: "fd00::5"},
	}}}
	for _, c := range []struct {
		what, want string
		self       self
		cfg        Config
	}{
		{"the object's", "10.0.0.5 fd00::5", self{object: object, outbound: addrs("10.7.7.7")}, Config{}},
		{"--bind-address over it", "10.0.0.6 fd00::5", self{object: object}, Config{BindAddress: netip.MustParseAddr("10.0.0.6")}},
		{"an unspecified one is none", "10.0.0.5 fd00::5", self{object: object}, Config{BindAddress: netip.IPv4Unspecified()}},
		{"no object yet", "10.7.7.7", self{outbound: addrs("10.7.7.7")}, Config{}},
		{"known beforehand", "10.1.1.1", self{outbound: addrs("10.7.7.7")}, Config{NodeIPs: addrs("10.1.1.1")}},
	} {
		if got := c.self.addresses(&c.cfg); fmt.Sprint(got) != fmt.Sprint(addrs(c.want)) {
			t.Errorf("%s: %v, want %s", c.what, got, c.want)
		}
	}
}

func TestConnectionsAreBoundedAsKubeProxyBoundsThem(t *testing.T) {
	for _, c := range []struct{ perCore, least, cores, want int32 }{
		{32768, 131072, 2, 131072}, {32768, 131072, 8, 262144}, {0, 131072, 8, 0}, {32768, 131072, 64, 1 << 20},
	} {
		if got := (Conntrack{MaxPerCore: c.perCore, Min: c.least}).limit(int(c.cores)); got != int(c.want) {
			t.Errorf("%+v: %d", c, got)
		}
	}
}
