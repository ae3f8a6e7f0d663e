package servicetable

import (
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// cluster is n Services of ten endpoints.
func cluster(n int) (services []*corev1.Service, all []*discoveryv1.EndpointSlice) {
	ip := func(base byte, i int) string {
		return netip.AddrFrom4([4]byte{base, byte(i >> 16), byte(i >> 8), byte(i)}).String()
	}
	for i := range n {
		name := "service-" + strconv.Itoa(i)
		services = append(services, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("team-%d", i%50), Name: name, ResourceVersion: strconv.Itoa(i + 1)},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeClusterIP, ClusterIP: ip(10, i), ClusterIPs: []string{ip(10, i)},
				Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}},
			},
		})
		all = append(all, tenEndpoints(i, 10))
	}
	return services, all
}

func tenEndpoints(i, n int) *discoveryv1.EndpointSlice {
	yes, no, port, proto, portName, node := true, false, int32(8080), corev1.ProtocolTCP, "http", "node-7"
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprintf("team-%d", i%50), Name: "service-" + strconv.Itoa(i) + "-x7x7x", ResourceVersion: strconv.Itoa(i + 1),
			Labels: map[string]string{discoveryv1.LabelServiceName: "service-" + strconv.Itoa(i)},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &proto}},
	}
	for j := range n {
		k := i*16 + j
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{netip.AddrFrom4([4]byte{100, byte(k >> 16), byte(k >> 8), byte(k)}).String()}, NodeName: &node,
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no},
		})
	}
	return s
}

func filled(services []*corev1.Service, all []*discoveryv1.EndpointSlice) *Table {
	table := New(Config{NodeName: "node-1", Zone: "a"})
	for _, s := range services {
		table.SetService(s)
	}
	for _, s := range all {
		table.SetSlice(s)
	}
	return table
}

// One endpoint comes and goes: SetSlice and Flush.
func BenchmarkOneEndpoint(b *testing.B) {
	for _, n := range []int{1000, 50_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			table := filled(cluster(n))
			table.Snapshot()
			two := []*discoveryv1.EndpointSlice{tenEndpoints(n/2, 11), tenEndpoints(n/2, 10)}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				table.SetSlice(two[i&1])
				if d := table.Flush(); len(d.Slots) != 1 {
					b.Fatalf("%d slots", len(d.Slots))
				}
			}
		})
	}
}

// Everything from nothing: SetService, SetSlice and Snapshot.
func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{1000, 10_000, 50_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			services, all := cluster(n)
			b.ReportAllocs()
			for b.Loop() {
				filled(services, all).Snapshot()
			}
		})
	}
}

// What a table of 10,000 Services holds in memory, told as B/table.
func BenchmarkMemory(b *testing.B) {
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const n = 10_000
	for b.Loop() {
		before := heap()
		table := New(Config{NodeName: "node-1", Zone: "a"})
		for at := 0; at < n; at += 100 { // objects come and go; the table stays
			services, all := cluster(at + 100)
			for i := at; i < at+100; i++ {
				table.SetService(services[i])
				table.SetSlice(all[i])
			}
		}
		table.Snapshot()
		table.SetSlice(tenEndpoints(7, 11))
		table.Flush()
		b.ReportMetric(float64(heap()-before), "B/table")
		runtime.KeepAlive(table)
	}
}
