package metrics

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"viaduct.dev/viaduct/internal/servicetable"
)

// table counts what the kernel holds, from the changes alone.
type table struct {
	pools, slots int
	frontends    map[verdictKey]int
	// dropped are the Service ports with frontends that drop: of each, how many.
	dropped map[dropKey]int
	noLocal map[policyKey]int
}

type verdictKey struct {
	verdict servicetable.Verdict
	family  string
}

type policyKey struct{ policy, family string }

type dropKey struct {
	policyKey
	service string
}

func newTable() table {
	return table{frontends: map[verdictKey]int{}, dropped: map[dropKey]int{}, noLocal: map[policyKey]int{}}
}

var verdicts = map[servicetable.Verdict]string{servicetable.Serve: "serve", servicetable.Refuse: "refuse", servicetable.Drop: "drop"}

func familyOf(a netip.Addr) string {
	if a.Is4() {
		return string(corev1.IPv4Protocol)
	}
	return string(corev1.IPv6Protocol)
}

func (t *table) follow(d *servicetable.Diff) {
	for _, c := range d.Frontends {
		t.count(c.Frontend, c.Old, -1)
		t.count(c.Frontend, c.New, 1)
	}
	for _, c := range d.Slots {
		n := 0
		if c.Old.IsValid() {
			n--
		}
		if c.New.IsValid() {
			n++
		}
		t.slots += n
		if c.Slot == 0 {
			t.pools += n
		}
	}
}

func (t *table) count(f servicetable.Frontend, to servicetable.Target, n int) {
	if to == (servicetable.Target{}) {
		return
	}
	family := familyOf(f.Addr)
	t.frontends[verdictKey{to.Internal.Verdict, family}] += n
	if to.Internal.Verdict == servicetable.Drop {
		t.drop(dropKey{policyKey{"internal", family}, to.Service}, n)
	}
	if to.External.Verdict == servicetable.Drop {
		t.drop(dropKey{policyKey{"external", family}, to.Service}, n)
	}
}

// drop counts a Service port once, however many frontends it has.
func (t *table) drop(k dropKey, n int) {
	had := t.dropped[k]
	t.dropped[k] = had + n
	switch {
	case had == 0 && n > 0:
		t.noLocal[k.policyKey]++
	case had+n == 0:
		t.noLocal[k.policyKey]--
		delete(t.dropped, k)
	}
}

func (t *table) show(m *Metrics) {
	m.own.pools.Set(float64(t.pools))
	m.own.slots.Set(float64(t.slots))
	for _, f := range families {
		for v, name := range verdicts {
			m.own.frontends.WithLabelValues(name, f).Set(float64(t.frontends[verdictKey{v, f}]))
		}
		for _, p := range []string{"internal", "external"} {
			m.kube.noLocal.WithLabelValues(p, f).Set(float64(t.noLocal[policyKey{p, f}]))
		}
	}
}
