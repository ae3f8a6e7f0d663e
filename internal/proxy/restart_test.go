package proxy

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

func TestServicesGoOnWhileTheProxyIsAway(t *testing.T) {
	n := newNetwork(t)
	echo(t, n.far, "far")
	n.service(t, "100", nil)
	n.endpoints(t, "200", []string{"10.244.9.2"}, []string{"fd00:10:244:9::2"})
	before, err := command(n.node, "nft", "list", "map", "ip", "viaduct", "svc")
	must(t, err)
	n.stop()
	if name, _, err := ask(n.pods[0], "tcp", "10.96.0.1:80"); err != nil || name != "far" {
		t.Errorf("while it is away: %q, %v", name, err)
	}
	n.start()
	after, err := command(n.node, "nft", "list", "map", "ip", "viaduct", "svc")
	must(t, err)
	elements := func(s string) string { return s[strings.Index(s, "map svc"):] }
	if elements(before) != elements(after) {
		t.Errorf("it was\n%s\nand is\n%s", before, after)
	}
	if name, _, err := ask(n.pods[0], "tcp", "[fd00:10:96::1]:80"); err != nil || name != "far" {
		t.Errorf("when it is back: %q, %v", name, err)
	}
}

func TestAUDPFlowLeavesAnEndpointThatIsGone(t *testing.T) {
	n := newNetwork(t)
	echo(t, n.far, "far")
	echo(t, n.pods[1], "pod-1")
	n.service(t, "100", nil)
	n.endpoints(t, "200", []string{"10.244.9.2"}, nil)
	c, err := n.pods[0].DialContext(t.Context(), "udp", "10.96.0.1:80")
	must(t, err)
	defer c.Close()
	heard := func() string {
		fmt.Fprint(c, "hello")
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		buf := make([]byte, 100)
		k, err := c.Read(buf)
		if e, ok := err.(net.Error); ok && e.Timeout() {
			return "nobody"
		}
		name, _, _ := strings.Cut(string(buf[:k]), " ")
		return name
	}
	n.await(t, func() bool { return heard() == "far" })
	n.endpoints(t, "300", []string{"10.244.0.6"}, nil)
	n.await(t, func() bool { return heard() == "pod-1" })
}
