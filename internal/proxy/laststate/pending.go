package laststate

import (
	"cmp"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"viaduct.dev/viaduct/internal/servicetable"
)

// pending is what is not yet in the file: perhaps a whole table, and what
// changed after it. However long the disk keeps us waiting, it is no larger than
// the table.
type pending struct {
	whole     *whole
	frontends map[servicetable.Frontend]servicetable.Target // the zero Target takes it away
	slots     map[slotKey]netip.AddrPort
	local     map[netip.Addr]bool // whether it is there
	sources   map[source]bool
	health    map[types.NamespacedName]servicetable.HealthChange
	revision  servicetable.Revision
	some      bool // there is something
}

type slotKey struct {
	pool servicetable.PoolID
	slot uint32
}

type source struct {
	frontend servicetable.Frontend
	callers  netip.Prefix
}

func newPending() *pending {
	return &pending{
		frontends: map[servicetable.Frontend]servicetable.Target{},
		slots:     map[slotKey]netip.AddrPort{},
		local:     map[netip.Addr]bool{},
		sources:   map[source]bool{},
		health:    map[types.NamespacedName]servicetable.HealthChange{},
	}
}

// add copies what is in d.
func (p *pending) add(d *servicetable.Diff) {
	for _, c := range d.Frontends {
		p.frontends[c.Frontend] = c.New
	}
	for _, c := range d.Slots {
		p.slots[slotKey{c.Pool, c.Slot}] = c.New
	}
	for _, c := range d.Local {
		p.local[c.Addr] = c.Added
	}
	for _, c := range d.Sources {
		p.sources[source{c.Frontend, c.Range}] = c.Added
	}
	for _, c := range d.Health {
		p.health[c.Service] = c
	}
	p.revision, p.some = d.Revision, true
}

// before puts what could not be written before what came in the meantime.
func (p *pending) before(later *pending) *pending {
	if !later.some {
		return p
	}
	if later.whole != nil {
		return later
	}
	put(p.frontends, later.frontends)
	put(p.slots, later.slots)
	put(p.local, later.local)
	put(p.sources, later.sources)
	put(p.health, later.health)
	p.revision = later.revision
	return p
}

func put[K comparable, V any](to, from map[K]V) {
	for k, v := range from {
		to[k] = v
	}
}

// records tells each change of a record, slots aside. A nil value takes it away.
func (p *pending) records(change func(b bucket, key, value []byte) error) error {
	var none []byte
	exists := map[bool][]byte{true: {}, false: none}
	for f, t := range p.frontends {
		value := none
		if t != (servicetable.Target{}) {
			value = targetValue(t)
		}
		if err := change(frontends, frontendKey(f), value); err != nil {
			return err
		}
	}
	for a, there := range p.local {
		if err := change(local, appendAddr(nil, a), exists[there]); err != nil {
			return err
		}
	}
	for s, there := range p.sources {
		if err := change(sources, sourceKey(s.frontend, s.callers), exists[there]); err != nil {
			return err
		}
	}
	for name, c := range p.health {
		value := none
		if c.Port != 0 {
			value = healthValue(c)
		}
		if err := change(health, []byte(name.String()), value); err != nil {
			return err
		}
	}
	return nil
}

// chunks tells the slots that changed by chunk.
func (p *pending) chunks(change func(pool servicetable.PoolID, number uint32, slots []slotKey) error) error {
	keys := make([]slotKey, 0, len(p.slots))
	for k := range p.slots {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b slotKey) int {
		return cmp.Or(cmp.Compare(a.pool, b.pool), cmp.Compare(a.slot, b.slot))
	})
	for len(keys) > 0 {
		pool, number := keys[0].pool, keys[0].slot/chunk
		n := 1
		for n < len(keys) && keys[n].pool == pool && keys[n].slot/chunk == number {
			n++
		}
		if err := change(pool, number, keys[:n]); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

// whole is a table as records, in the order of their keys.
type whole struct{ records [buckets][]record }

type record struct{ key, value []byte }

// newWhole makes records of a Snapshot.
func newWhole(d *servicetable.Diff) *whole {
	w := &whole{}
	add := func(b bucket, key, value []byte) { w.records[b] = append(w.records[b], record{key, value}) }
	for _, c := range d.Frontends {
		add(frontends, frontendKey(c.Frontend), targetValue(c.New))
	}
	var slots backends
	for i, c := range d.Slots {
		slots[c.Slot%chunk] = c.New
		if i+1 == len(d.Slots) || d.Slots[i+1].Pool != c.Pool || d.Slots[i+1].Slot/chunk != c.Slot/chunk {
			add(pools, chunkKey(c.Pool, c.Slot/chunk), slots.value())
			slots = backends{}
		}
	}
	for _, c := range d.Local {
		add(local, appendAddr(nil, c.Addr), []byte{})
	}
	for _, c := range d.Sources {
		add(sources, sourceKey(c.Frontend, c.Range), []byte{})
	}
	for _, c := range d.Health {
		add(health, []byte(c.Service.String()), healthValue(c))
	}
	for b := range w.records {
		slices.SortFunc(w.records[b], func(a, b record) int { return slices.Compare(a.key, b.key) })
	}
	return w
}
