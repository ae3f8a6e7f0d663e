package laststate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"go.etcd.io/bbolt"

	"viaduct.dev/viaduct/internal/servicetable"
)

// bucket is one of those with records.
type bucket int

const (
	frontends bucket = iota
	pools
	local
	sources
	health
	buckets
)

var names = [buckets][]byte{[]byte("frontends"), []byte("slots"), []byte("local"), []byte("sources"), []byte("health")}

var (
	meta        = []byte("meta")
	keyFormat   = []byte("format")
	keyRevision = []byte("revision") // there is one from the first whole table on
	keySum      = []byte("sum")
)

var (
	errDamaged = errors.New("damaged")
	// errFault is a damage that bbolt fell over.
	errFault = errors.New("bbolt")
	// errNothing makes a transaction that changed nothing end without a write.
	errNothing = errors.New("nothing changed")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const sealSize = 4

// seal is the check sum of a record.
func seal(b bucket, key, value []byte) uint32 {
	sum := crc32.Update(uint32(b), castagnoli, key)
	return crc32.Update(sum, castagnoli, value)
}

// unseal takes the seal off a value.
func unseal(b bucket, key, sealed []byte) (value []byte, sum uint32, err error) {
	n := len(sealed) - sealSize
	if n < 0 {
		return nil, 0, fmt.Errorf("%w: %s: a record is short", errDamaged, names[b])
	}
	value, sum = sealed[:n], binary.BigEndian.Uint32(sealed[n:])
	if seal(b, key, value) != sum {
		return nil, 0, fmt.Errorf("%w: %s: a record's check sum is wrong", errDamaged, names[b])
	}
	return value, sum, nil
}

// prepare checks the format of a file, or begins one.
func prepare(tx *bbolt.Tx) error {
	m := tx.Bucket(meta)
	if m != nil {
		if have := m.Get(keyFormat); string(have) != format {
			return fmt.Errorf("its format is %q, not %q", have, format)
		}
		for _, name := range names {
			if tx.Bucket(name) == nil {
				return fmt.Errorf("%w: %s is missing", errDamaged, name)
			}
		}
		return errNothing
	}
	if name, _ := tx.Cursor().First(); name != nil {
		return fmt.Errorf("it is another program's: it has %q", name)
	}
	m, err := tx.CreateBucket(meta)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	return m.Put(keyFormat, []byte(format))
}

// total reads the sum of all seals and the revision; there is none in a file
// that was not told a whole table yet.
func total(tx *bbolt.Tx) (sum uint64, r servicetable.Revision, there bool, err error) {
	m := tx.Bucket(meta)
	b := m.Get(keyRevision)
	if b == nil {
		return 0, r, false, nil
	}
	value, _, err := unseal(buckets-1, keyRevision, b)
	if err != nil {
		return 0, r, false, err
	}
	if r, err = parseRevision(value); err != nil {
		return 0, r, false, err
	}
	if b = m.Get(keySum); len(b) != 8 {
		return 0, r, false, fmt.Errorf("%w: no sum", errDamaged)
	}
	return binary.BigEndian.Uint64(b), r, true, nil
}

// load reads the whole file.
func load(tx *bbolt.Tx) (d servicetable.Diff, err error) {
	want, revision, there, err := total(tx)
	if err != nil || !there {
		return d, err
	}
	d.Revision = revision
	var sum uint64
	for b := range buckets {
		if err := tx.Bucket(names[b]).ForEach(func(key, sealed []byte) error {
			value, one, err := unseal(b, key, sealed)
			if err != nil {
				return err
			}
			sum += uint64(one)
			return add(&d, b, key, value)
		}); err != nil {
			return servicetable.Diff{}, err
		}
	}
	if sum != want {
		return servicetable.Diff{}, fmt.Errorf("%w: records are missing", errDamaged)
	}
	return d, nil
}

// add adds what a record says to d.
func add(d *servicetable.Diff, b bucket, key, value []byte) error {
	switch b {
	case frontends:
		f, rest, err := cutFrontend(key)
		if err != nil || len(rest) > 0 {
			return errRecord
		}
		t, err := parseTarget(value)
		if err != nil {
			return err
		}
		d.Frontends = append(d.Frontends, servicetable.FrontendChange{Frontend: f, New: t})
	case pools:
		pool, number, err := parseChunkKey(key)
		if err != nil {
			return err
		}
		var slots backends
		if err := slots.parse(value); err != nil {
			return err
		}
		for i, ap := range slots {
			if ap.IsValid() {
				d.Slots = append(d.Slots, servicetable.SlotChange{Pool: pool, Slot: number*chunk + uint32(i), New: ap})
			}
		}
	case local:
		a, rest, err := cutAddr(key)
		if err != nil || len(rest) > 0 {
			return errRecord
		}
		d.Local = append(d.Local, servicetable.LocalChange{Addr: a, Added: true})
	case sources:
		s, err := parseSourceKey(key)
		if err != nil {
			return err
		}
		d.Sources = append(d.Sources, s)
	case health:
		c, err := parseHealth(key, value)
		if err != nil {
			return err
		}
		d.Health = append(d.Health, c)
	}
	return nil
}

// writer changes records and keeps the sum of their seals.
type writer struct {
	tx      *bbolt.Tx
	sum     uint64
	changed bool
}

// set makes a record be value; nil takes it away. What is so already is not
// written.
func (w *writer) set(b bucket, key, value []byte) error {
	in := w.tx.Bucket(names[b])
	if had := in.Get(key); had != nil {
		old, sum, err := unseal(b, key, had)
		if err != nil {
			return err
		}
		if value != nil && bytes.Equal(old, value) {
			return nil
		}
		w.sum -= uint64(sum)
		if value == nil {
			w.changed = true
			return in.Delete(key)
		}
	} else if value == nil {
		return nil
	}
	w.changed = true
	sum := seal(b, key, value)
	w.sum += uint64(sum)
	return in.Put(key, binary.BigEndian.AppendUint32(value[:len(value):len(value)], sum))
}

// store is the transaction that writes what is pending.
func (p *pending) store(tx *bbolt.Tx) error {
	sum, revision, there, err := total(tx)
	if err != nil {
		return err
	}
	w := &writer{tx: tx, sum: sum}
	switch {
	case p.whole != nil:
		if err := w.replace(p.whole); err != nil {
			return err
		}
	case !there:
		return errNothing // changes of a table that nobody told
	}
	if err := p.records(w.set); err != nil {
		return err
	}
	err = p.chunks(func(pool servicetable.PoolID, number uint32, changed []slotKey) error {
		key := chunkKey(pool, number)
		var slots backends
		if have := tx.Bucket(names[pools]).Get(key); have != nil {
			value, _, err := unseal(pools, key, have)
			if err == nil {
				err = slots.parse(value)
			}
			if err != nil {
				return fmt.Errorf("%w: %w", errDamaged, err)
			}
		}
		for _, s := range changed {
			slots[s.slot%chunk] = p.slots[s]
		}
		return w.set(pools, key, slots.value())
	})
	if err != nil {
		return err
	}
	if !w.changed && there && p.revision == revision {
		return errNothing
	}
	m := tx.Bucket(meta)
	if err := m.Put(keySum, binary.BigEndian.AppendUint64(nil, w.sum)); err != nil {
		return err
	}
	value := revisionValue(p.revision)
	return m.Put(keyRevision, binary.BigEndian.AppendUint32(value, seal(buckets-1, keyRevision, value)))
}

// replace makes the file have just the records of a whole table.
func (w *writer) replace(all *whole) error {
	for b := range buckets {
		in := w.tx.Bucket(names[b])
		// A bucket is not changed under its cursor.
		var gone, fresh [][]byte
		var values [][]byte
		want := all.records[b]
		cursor := in.Cursor()
		key, sealed := cursor.First()
		for key != nil || len(want) > 0 {
			order := -1 // what is there and not wanted comes first
			switch {
			case key == nil:
				order = 1
			case len(want) > 0:
				order = bytes.Compare(key, want[0].key)
			}
			if order < 0 {
				gone = append(gone, bytes.Clone(key))
			} else {
				if order > 0 || len(sealed) < sealSize || !bytes.Equal(sealed[:len(sealed)-sealSize], want[0].value) {
					fresh, values = append(fresh, want[0].key), append(values, want[0].value)
				}
				want = want[1:]
			}
			if order <= 0 {
				key, sealed = cursor.Next()
			}
		}
		if len(gone) == 0 && len(fresh) == len(all.records[b]) {
			in.FillPercent = 0.9 // they come in order
		}
		for _, key := range gone {
			if err := w.set(b, key, nil); err != nil {
				return err
			}
		}
		for i, key := range fresh {
			if err := w.set(b, key, values[i]); err != nil {
				return err
			}
		}
	}
	return nil
}
