package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
)

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// describe writes default/kubernetes down: the Service, then slice by slice.
func describe(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	var lines []string
	services, err := client.CoreV1().Services("default").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	for _, s := range services.Items {
		lines = append(lines, fmt.Sprintf("service %s:%d -> %s", strings.Join(s.Spec.ClusterIPs, ","), s.Spec.Ports[0].Port, s.Spec.Ports[0].TargetPort.String()))
	}
	slices, err := client.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	for _, s := range slices.Items {
		var endpoints []string
		for _, e := range s.Endpoints {
			endpoints = append(endpoints, e.Addresses...)
		}
		lines = append(lines, fmt.Sprintf("%s %s %s:%d", s.Name, s.AddressType, strings.Join(endpoints, ","), *s.Ports[0].Port))
	}
	endpoints, err := client.CoreV1().Endpoints("default").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	for _, e := range endpoints.Items {
		lines = append(lines, fmt.Sprintf("endpoints %s:%d", e.Subsets[0].Addresses[0].IP, e.Subsets[0].Ports[0].Port))
	}
	return strings.Join(lines, "\n")
}

func TestTheServiceKubernetesFollowsTheServer(t *testing.T) {
	both := prefixes("10.96.0.0/12", "fd00:10:96::/112")
	tests := []struct {
		name   string
		before Config // an earlier start, if its port is not zero
		config Config
		want   string
	}{
		{
			name:   "both families",
			config: Config{ServiceCIDRs: both, AdvertiseAddresses: addrs("172.20.0.11", "fd00:172:20::11"), AdvertisePort: 6443},
			want: `service 10.96.0.1,fd00:10:96::1:443 -> 6443
kubernetes IPv4 172.20.0.11:6443
kubernetes-secondary IPv6 fd00:172:20::11:6443
endpoints 172.20.0.11:6443`,
		},
		{
			name:   "an address of one family only",
			config: Config{ServiceCIDRs: both, AdvertiseAddresses: addrs("fd00:172:20::11"), AdvertisePort: 6443},
			want: `service fd00:10:96::1:443 -> 6443
kubernetes IPv6 fd00:172:20::11:6443
endpoints fd00:172:20::11:6443`,
		},
		{
			name:   "nothing to advertise",
			config: Config{ServiceCIDRs: both},
			want:   "",
		},
		{
			name:   "moved since the last start",
			before: Config{ServiceCIDRs: both[:1], AdvertiseAddresses: addrs("192.0.2.1"), AdvertisePort: 1},
			config: Config{ServiceCIDRs: both[:1], AdvertiseAddresses: addrs("172.20.0.11", "172.20.0.12"), AdvertisePort: 6443},
			want: `service 10.96.0.1:443 -> 6443
kubernetes IPv4 172.20.0.11,172.20.0.12:6443
endpoints 172.20.0.11:6443`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client := fake.NewClientset()
			if tt.before.AdvertisePort != 0 {
				must(t, newSelf(tt.before).ensure(t.Context(), client))
			}
			for range 2 { // the second time changes nothing
				must(t, newSelf(tt.config).ensure(t.Context(), client))
			}
			if got := describe(t, client); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestTheServiceKubernetesComesBackWhenItIsDeleted(t *testing.T) {
	client := fake.NewClientset()
	own := newSelf(Config{ServiceCIDRs: prefixes("10.96.0.0/12"), AdvertiseAddresses: addrs("172.20.0.11"), AdvertisePort: 6443})
	must(t, own.ensure(t.Context(), client))
	whole := describe(t, client)
	must(t, client.CoreV1().Services("default").Delete(t.Context(), "kubernetes", metav1.DeleteOptions{}))
	must(t, client.DiscoveryV1().EndpointSlices("default").Delete(t.Context(), "kubernetes", metav1.DeleteOptions{}))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		own.keep(ctx, client, time.Millisecond, slog.New(slog.DiscardHandler))
	}()
	for describe(t, client) != whole {
		if ctx.Err() != nil {
			t.Fatalf("got\n%s\nwant\n%s", describe(t, client), whole)
		}
	}
	cancel()
	<-ended
}

func TestTheServiceKubernetesIsThereWhenTheServerIsReady(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want := `service 10.96.0.1,fd00:10:96::1:443 -> 6443
kubernetes IPv4 172.20.0.11:6443
kubernetes-secondary IPv6 fd00:172:20::11:6443
endpoints 172.20.0.11:6443`
	for range 2 {
		c := start(t, dir)
		if got := describe(t, c.client); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		c.stop()
	}
}
