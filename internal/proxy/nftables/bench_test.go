package nftables

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"viaduct.dev/viaduct/internal/lab/labtest"
	"viaduct.dev/viaduct/internal/servicetable"
)

// cluster is the Snapshot of so many Services of one port with so many endpoints.
func cluster(services, endpoints int) *servicetable.Diff {
	d := &servicetable.Diff{}
	for i := range services {
		pool := servicetable.PoolID(i + 1)
		v := servicetable.View{Verdict: servicetable.Serve, Pool: pool, Size: uint32(endpoints)}
		vip := netip.AddrFrom4([4]byte{10, 100, byte(i >> 8), byte(i)})
		d.Frontends = append(d.Frontends, servicetable.FrontendChange{
			Frontend: servicetable.Frontend{Addr: vip, Port: 80, Protocol: servicetable.TCP},
			New:      servicetable.Target{Service: fmt.Sprintf("namespace-%d/service-%d:http", i%100, i), Internal: v, External: v, Hide: servicetable.HideOffCluster},
		})
		for slot := range endpoints {
			d.Slots = append(d.Slots, servicetable.SlotChange{Pool: pool, Slot: uint32(slot), New: backend(i*endpoints + slot)})
		}
	}
	return d
}

// moved gives a Diff's pools other numbers.
func moved(d *servicetable.Diff, by servicetable.PoolID) *servicetable.Diff {
	for i := range d.Slots {
		d.Slots[i].Pool += by
	}
	for i := range d.Frontends {
		d.Frontends[i].New.Internal.Pool += by
		d.Frontends[i].New.External.Pool += by
	}
	return d
}

func backend(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 200 + byte(i>>16), byte(i >> 8), byte(i)}), 8080)
}

// replaced is the change of one endpoint.
func replaced(pool, from, to int) *servicetable.Diff {
	return &servicetable.Diff{Slots: []servicetable.SlotChange{{Pool: servicetable.PoolID(pool), Slot: 3, Old: backend(from), New: backend(to)}}}
}

// BenchmarkLoad fills an empty kernel.
func BenchmarkLoad(b *testing.B) {
	for _, services := range []int{1000, 10000, 50000} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			d := cluster(services, 10)
			b.ReportAllocs()
			for range b.N {
				b.StopTimer()
				ns := labtest.New(b)
				s, _ := open(b, ns)
				b.StartTimer()
				if err := s.Apply(d); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				s.Close()
				ns.Close()
			}
		})
	}
}

// BenchmarkEndpoint replaces one endpoint.
func BenchmarkEndpoint(b *testing.B) {
	for _, services := range []int{1000, 10000, 50000} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			s, _ := open(b, labtest.New(b))
			if err := s.Apply(cluster(services, 10)); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			var took []time.Duration
			last := 3
			for i := range b.N {
				d := replaced(1, last, 1_000_000+i)
				last = 1_000_000 + i
				start := time.Now()
				if err := s.Apply(d); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "us-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "us-p99")
		})
	}
}
