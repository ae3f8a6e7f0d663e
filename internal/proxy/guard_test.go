package proxy

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"viaduct.dev/viaduct/internal/lab"
)

// reaches says whether a connection is made before its SYN is sent again.
func reaches(from *lab.Namespace, to string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 700*time.Millisecond)
	defer cancel()
	c, err := from.DialContext(ctx, "tcp", to)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// Row loadBalancerSourceRanges of features.md: the ranges filter who dials the
// load-balancer addresses, from Pods and the node too, and no other frontend.
func TestSourceRangesFilterTheBalancersAddresses(t *testing.T) {
	n := newNetwork(t)
	echo(t, n.far, "far")
	must(t, n.outside.AddRoute(prefix("172.20.255.0/24"), netip.MustParseAddr("172.20.0.11")))
	must(t, n.outside.AddRoute(prefix("fd00:172:20::ff00/120"), netip.MustParseAddr("fd00:172:20::b")))
	must(t, n.node.AddRoute(prefix("0.0.0.0/0"), netip.MustParseAddr("172.20.0.200")))
	must(t, n.node.AddRoute(prefix("::/0"), netip.MustParseAddr("fd00:172:20::c8")))
	n.endpoints(t, "100", []string{"10.244.9.2"}, []string{"fd00:10:244:9::2"})
	version := 200
	for name, c := range map[string]struct {
		ranges string
		may    string // who may dial the balancer's addresses
	}{
		"nobody is kept out":          {"", "node outside pod"},
		"those of the nodes' network": {"172.20.0.0/24 fd00:172:20::/64", "node outside"},
		"one host":                    {"172.20.0.200/32 fd00:172:20::c8/128", "outside"},
		"Pods and others":             {"198.51.100.0/24 10.244.0.0/16 2001:db8::/32 fd00:10:244::/56", "pod"},
		"the whole world":             {"0.0.0.0/0 ::/0", "node outside pod"},
		"overlapping ranges":          {"172.20.0.0/16 172.20.0.11/32 fd00:172::/24 fd00:172:20::b/128", "node outside"},
		"one family's only":           {"172.20.0.0/24", "node outside"},
	} {
		t.Run(name, func(t *testing.T) {
			version++
			n.service(t, fmt.Sprint(version), func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = strings.Fields(c.ranges) })
			var all sync.WaitGroup
			for place, ns := range map[string]*lab.Namespace{"pod": n.pods[0], "node": n.node, "outside": n.outside} {
				for way, addresses := range everyWay {
					for i, to := range addresses {
						want := way != "load-balancer IP" || strings.Contains(c.may, place)
						if way == "load-balancer IP" && i == 1 && c.ranges != "" && !strings.Contains(c.ranges, ":") {
							want = false // ranges of IPv4 alone let nobody in over IPv6
						}
						all.Go(func() {
							if got := reaches(ns, to); got != want {
								t.Errorf("%s to the %s %s: %v, want %v", place, way, to, got, want)
							}
						})
					}
				}
			}
			all.Wait()
		})
	}
	// What the kernel holds survives a restart as it is.
	n.service(t, "300", func(s *corev1.Service) {
		s.Spec.LoadBalancerSourceRanges = []string{"172.20.0.0/24", "fd00:172:20::/64"}
	})
	list := func() string {
		out, err := command(n.node, "nft", "list", "table", "ip", "viaduct")
		if err != nil || !strings.Contains(out, "172.20.255.1 . tcp . 80 . 172.20.0.0/24") {
			t.Fatalf("nft list: %v\n%s", err, out)
		}
		return out
	}
	if _, err := os.Stat("/usr/sbin/nft"); err != nil {
		t.Skip("nft is not installed (Debian package nftables)")
	}
	before := list()
	n.stop()
	n.start()
	if after := list(); after != before {
		t.Errorf("after a restart\n%s\nbefore\n%s", after, before)
	}
}
