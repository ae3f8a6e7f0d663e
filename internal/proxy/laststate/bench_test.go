package laststate_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"

	"viaduct.dev/viaduct/internal/servicetable"
)

// city has so many Services of one port with ten endpoints each.
func city(services int) servicetable.Diff {
	w := newWorld()
	endpoints := make([]int, 10)
	for n := range services {
		for i := range endpoints {
			endpoints[i] = (10*n + i) % 60000
		}
		w.service(n, 0)
		w.slice(n, discoveryv1.AddressTypeIPv4, 8080, endpoints)
	}
	return w.table.Snapshot()
}

func BenchmarkTheFile(b *testing.B) {
	for _, services := range []int{10_000, 50_000} {
		d := city(services)
		path := filepath.Join(b.TempDir(), "table.db")
		size := func(b *testing.B) {
			if i, err := os.Stat(path); err == nil {
				b.ReportMetric(float64(i.Size())/(1<<20), "MiB")
			}
		}
		b.Run(fmt.Sprintf("%dx10/write", services), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = os.Remove(path)
				s := open(b, path)
				s.Replace(d)
				finish(b, s)
			}
			size(b)
		})
		b.Run(fmt.Sprintf("%dx10/write what is there", services), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s := open(b, path)
				s.Replace(d)
				finish(b, s)
			}
			size(b)
		})
		b.Run(fmt.Sprintf("%dx10/load", services), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if got := load(b, path); len(got.Slots) != len(d.Slots) {
					b.Fatalf("%d slots of %d", len(got.Slots), len(d.Slots))
				}
			}
		})
		b.Run(fmt.Sprintf("%dx10/200 changes", services), func(b *testing.B) {
			b.ReportAllocs()
			s := open(b, path)
			for b.Loop() {
				for i := range 200 {
					c := d.Slots[i*len(d.Slots)/200]
					c.Old, c.New = c.New, d.Slots[b.N%len(d.Slots)].New
					s.Add(servicetable.Diff{Slots: []servicetable.SlotChange{c}})
				}
				finish(b, s) // opens again by itself
			}
			size(b)
		})
	}
}
