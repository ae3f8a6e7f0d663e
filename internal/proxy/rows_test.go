package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"viaduct.dev/viaduct/internal/lab"
)

// The tests of this file are each for a row of features.md, sections 1.1 and 1.5.

// want asks in both families, each time often enough to meet every endpoint,
// and wants just these to answer.
func (n *network) want(t *testing.T, from *lab.Namespace, to [2]string, names ...string) {
	t.Helper()
	for _, at := range to {
		seen := map[string]bool{}
		for range 12 {
			name, _, err := ask(from, "tcp", at)
			if err != nil {
				t.Errorf("%s: %v", at, err)
				return
			}
			seen[name] = true
		}
		allowed := strings.Join(names, " ")
		for name := range seen {
			if !strings.Contains(allowed, name) {
				t.Errorf("%s: %s answers, want %s", at, name, allowed)
			}
		}
		if len(names) == 1 && !seen[names[0]] {
			t.Errorf("%s: %v answer, want %s", at, seen, names[0])
		}
	}
}

// dropped wants no answer at all: neither a connection nor a refusal.
func dropped(t *testing.T, from *lab.Namespace, to [2]string) {
	t.Helper()
	for _, at := range to {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		c, err := from.DialContext(ctx, "tcp", at)
		cancel()
		if err == nil {
			c.Close()
		}
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%s: %v, want a time-out", at, err)
		}
	}
}

// outsideRoutes lets the outside reach load-balancer addresses by the node.
func (n *network) outsideRoutes(t *testing.T) {
	t.Helper()
	must(t, n.outside.AddRoute(prefix("172.20.255.0/24"), netip.MustParseAddr("172.20.0.11")))
	must(t, n.outside.AddRoute(prefix("fd00:172:20::ff00/120"), netip.MustParseAddr("fd00:172:20::b")))
}

// Row externalTrafficPolicy.
func TestRowExternalTrafficPolicyLocal(t *testing.T) {
	n := newNetwork(t)
	echo(t, n.far, "far")
	echo(t, n.pods[0], "pod-0")
	n.outsideRoutes(t)
	n.service(t, "100", func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
	n.endpoints(t, "200", []string{"10.244.0.2", "10.244.9.2"}, []string{"fd00:10:244::2", "fd00:10:244:9::2"})
	for _, way := range []string{"node port", "load-balancer IP"} {
		n.want(t, n.outside, everyWay[way], "pod-0")
		for i, to := range everyWay[way] {
			for _, network := range []string{"tcp", "udp"} {
				want := []string{"172.20.0.200", "fd00:172:20::c8"}[i]
				if _, saw, err := ask(n.outside, network, to); err != nil || saw.String() != want {
					t.Errorf("%s to the %s: the endpoint saw %s (%v), want %s", network, way, saw, err, want)
				}
			}
		}
	}
	// From inside the cluster, the balancer's address is Cluster's way.
	n.endpoints(t, "300", []string{"10.244.9.2"}, []string{"fd00:10:244:9::2"})
	n.want(t, n.pods[1], everyWay["load-balancer IP"], "far")
	n.want(t, n.pods[1], everyWay["cluster IP"], "far")
	dropped(t, n.outside, everyWay["node port"])
	dropped(t, n.outside, everyWay["load-balancer IP"])
}

// Row internalTrafficPolicy.
func TestRowInternalTrafficPolicyLocal(t *testing.T) {
	n := newNetwork(t)
	echo(t, n.far, "far")
	echo(t, n.pods[0], "pod-0")
	local := corev1.ServiceInternalTrafficPolicyLocal
	n.service(t, "100", func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = &local })
	n.endpoints(t, "200", []string{"10.244.0.2", "10.244.9.2"}, []string{"fd00:10:244::2", "fd00:10:244:9::2"})
	n.want(t, n.pods[1], everyWay["cluster IP"], "pod-0")
	n.want(t, n.node, everyWay["cluster IP"], "pod-0")
	n.want(t, n.outside, everyWay["node port"], "pod-0", "far")
	n.endpoints(t, "300", []string{"10.244.9.2"}, []string{"fd00:10:244:9::2"})
	dropped(t, n.pods[1], everyWay["cluster IP"])
	dropped(t, n.node, everyWay["cluster IP"])
	n.want(t, n.outside, everyWay["node port"], "far") // no say in external ways
	n.endpoints(t, "400", nil, nil)
	for _, to := range everyWay["cluster IP"] {
		if _, _, err := ask(n.pods[1], "tcp", to); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s without any endpoint: %v", to, err)
		}
	}
}

// Row terminating fallback (KEP 1669).
func TestRowTerminatingFallback(t *testing.T) {
	n := newNetwork(t)
	echo(t, n.pods[0], "pod-0")
	echo(t, n.pods[1], "pod-1")
	n.service(t, "100", func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
	yes, no := true, false
	set := func(version string, first, second discoveryv1.EndpointConditions) {
		t.Helper()
		name, port, proto, here := "tcp", int32(8080), corev1.ProtocolTCP, "node-1"
		s := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-ends", ResourceVersion: version, Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &proto}},
			Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{"10.244.0.2"}, NodeName: &here, Conditions: first},
				{Addresses: []string{"10.244.0.6"}, NodeName: &here, Conditions: second},
			},
		}
		gvr := discoveryv1.SchemeGroupVersion.WithResource("endpointslices")
		if err := n.client.Tracker().Update(gvr, s, "default"); err != nil {
			must(t, n.client.Tracker().Create(gvr, s, "default"))
		}
		n.programmed(t, atoi(version))
	}
	ready := discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no}
	ends := discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
	over := discoveryv1.EndpointConditions{Ready: &no, Serving: &no, Terminating: &yes}
	v4 := func(way string) [2]string { return [2]string{everyWay[way][0], everyWay[way][0]} }
	set("200", ready, ends)
	n.want(t, n.outside, v4("node port"), "pod-0")
	n.want(t, n.pods[1], v4("cluster IP"), "pod-0")
	set("300", over, ends)
	n.want(t, n.outside, v4("node port"), "pod-1")
	n.want(t, n.pods[0], v4("cluster IP"), "pod-1")
	set("400", over, over)
	if _, _, err := ask(n.pods[0], "tcp", "10.96.0.1:80"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("when nobody serves any more: %v", err)
	}
}

// Row sessionAffinity.
func TestRowSessionAffinity(t *testing.T) {
	n := newNetwork(t)
	echo(t, n.far, "far")
	echo(t, n.pods[0], "pod-0")
	echo(t, n.pods[1], "pod-1")
	seconds := int32(7)
	n.service(t, "100", func(s *corev1.Service) {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	})
	n.endpoints(t, "200", []string{"10.244.0.2", "10.244.0.6", "10.244.9.2"}, []string{"fd00:10:244::2", "fd00:10:244::1:2", "fd00:10:244:9::2"})
	for i, at := range everyWay["node port"] {
		one := [2]string{at, at}
		name, _, err := ask(n.outside, "tcp", at)
		must(t, err)
		n.want(t, n.outside, one, name)
		n.stop() // a restart forgets nobody
		n.start()
		n.want(t, n.outside, one, name)
		// Its endpoint goes: another one, and from then on that one.
		left := [2][]string{{"10.244.0.2", "10.244.0.6", "10.244.9.2"}, {"fd00:10:244::2", "fd00:10:244::1:2", "fd00:10:244:9::2"}}
		gone := map[string]int{"pod-0": 0, "pod-1": 1, "far": 2}[name]
		left[i] = append(append([]string(nil), left[i][:gone]...), left[i][gone+1:]...)
		n.endpoints(t, fmt.Sprint(300+100*i), left[0], left[1])
		next, _, err := ask(n.outside, "tcp", at)
		if err != nil || next == name {
			t.Errorf("%s: %q (%v) after %s had gone", at, next, err, name)
		}
		n.want(t, n.outside, one, next)
	}
	out, err := command(n.node, "nft", "list", "table", "ip", "viaduct")
	if err != nil {
		t.Skip("nft is not installed (Debian package nftables)")
	}
	if !strings.Contains(out, "172.20.0.200") || !strings.Contains(out, "timeout 10s") {
		t.Errorf("a time-out of 7 s is not rounded up to 10 s:\n%.4000s", out)
	}
}

// Row ingress[].ipMode (1.2): Proxy is left alone.
func TestRowIPModeProxy(t *testing.T) {
	n := newNetwork(t)
	echo(t, n.pods[0], "pod-0")
	must(t, n.node.AddRoute(prefix("172.20.255.1/32"), netip.MustParseAddr("172.20.0.200")))
	must(t, n.outside.AddAddress("eth0", prefix("172.20.255.1/32")))
	l, err := n.outside.Listen(t.Context(), "tcp", "172.20.255.1:80")
	must(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "balancer %s", c.RemoteAddr())
			c.Close()
		}
	}()
	n.endpoints(t, "50", []string{"10.244.0.2"}, nil)
	at := [2]string{"172.20.255.1:80", "172.20.255.1:80"}
	for i, c := range []struct {
		mode corev1.LoadBalancerIPMode
		want string
	}{{corev1.LoadBalancerIPModeProxy, "balancer"}, {corev1.LoadBalancerIPModeVIP, "pod-0"}, {corev1.LoadBalancerIPModeProxy, "balancer"}} {
		n.service(t, fmt.Sprint(100+i), func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "172.20.255.1", IPMode: &c.mode}}
		})
		n.want(t, n.pods[1], at, c.want)
		n.want(t, n.node, at, c.want)
	}
}

// Row label service.kubernetes.io/service-proxy-name.
func TestRowServiceProxyName(t *testing.T) {
	n := newNetwork(t)
	echo(t, n.pods[0], "pod-0")
	n.endpoints(t, "50", []string{"10.244.0.2"}, []string{"fd00:10:244::2"})
	for i, label := range []string{"", "another", ""} {
		n.service(t, fmt.Sprint(100+i), func(s *corev1.Service) {
			if label != "" {
				s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": label}
			}
		})
		if label == "" {
			n.want(t, n.pods[1], everyWay["cluster IP"], "pod-0")
			continue
		}
		for _, to := range everyWay["cluster IP"] {
			if name, _, err := ask(n.pods[1], "tcp", to); err == nil {
				t.Errorf("%s answers at %s, which is another proxy's", name, to)
			}
		}
	}
}

// Row established flows to a removed endpoint.
func TestRowEstablishedConnectionsStay(t *testing.T) {
	n := newNetwork(t)
	l, err := n.far.Listen(t.Context(), "tcp", ":8080")
	must(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for lines := bufio.NewScanner(c); lines.Scan(); {
					fmt.Fprintf(c, "got %s\n", lines.Text())
				}
			}()
		}
	}()
	n.service(t, "100", nil)
	n.endpoints(t, "200", []string{"10.244.9.2"}, []string{"fd00:10:244:9::2"})
	var open []net.Conn
	for _, from := range []*lab.Namespace{n.pods[0], n.node, n.outside} {
		for _, to := range everyWay["node port"] {
			c, err := from.DialContext(t.Context(), "tcp", to)
			must(t, err)
			defer c.Close()
			open = append(open, c)
		}
	}
	alive := func(when string) {
		t.Helper()
		for _, c := range open {
			must(t, c.SetDeadline(time.Now().Add(3*time.Second)))
			fmt.Fprintf(c, "%s\n", when)
			if line, err := bufio.NewReader(c).ReadString('\n'); line != "got "+when+"\n" {
				t.Errorf("%s: %q, %v", when, line, err)
			}
		}
	}
	alive("at first")
	n.endpoints(t, "300", nil, nil)
	alive("when the endpoint is no more")
	n.stop()
	n.start()
	alive("after a restart")
}

// Row UDP stale conntrack: a plain restart purges nothing.
func TestRowARestartKeepsUDPFlows(t *testing.T) {
	n := newNetwork(t)
	echo(t, n.pods[0], "pod-0")
	echo(t, n.pods[1], "pod-1")
	echo(t, n.far, "far")
	n.service(t, "100", nil)
	n.endpoints(t, "200", []string{"10.244.0.2", "10.244.0.6", "10.244.9.2"}, []string{"fd00:10:244::2", "fd00:10:244::1:2", "fd00:10:244:9::2"})
	type flow struct {
		net.Conn
		heard string
	}
	var flows []flow
	hear := func(c net.Conn) string {
		must(t, c.SetDeadline(time.Now().Add(3*time.Second)))
		fmt.Fprint(c, "hello")
		buf := make([]byte, 200)
		k, err := c.Read(buf)
		if err != nil {
			t.Error(err)
		}
		return string(buf[:k]) // who answers, and which port it saw
	}
	for i := range 20 {
		c, err := n.outside.DialContext(t.Context(), "udp", everyWay["node port"][i%2])
		must(t, err)
		defer c.Close()
		flows = append(flows, flow{c, hear(c)})
	}
	n.stop()
	n.start()
	for _, f := range flows {
		if again := hear(f); again != f.heard {
			t.Errorf("%q after a restart, %q before", again, f.heard)
		}
	}
}
