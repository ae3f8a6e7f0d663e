package laststate_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"

	"go.etcd.io/bbolt"

	"viaduct.dev/viaduct/internal/proxy/laststate"
	"viaduct.dev/viaduct/internal/servicetable"
)

// town is a world with some of everything.
func town(services int) *world {
	w := newWorld()
	for n := range services {
		w.service(n, n%16)
		w.slice(n, discoveryv1.AddressTypeIPv4, 8080, []int{n % 300, (n + 1) % 300, (n + 2) % 300})
		w.slice(n, discoveryv1.AddressTypeIPv6, 8080, []int{n % 300})
	}
	return w
}

// written makes a file with the table of a town.
func written(t testing.TB, services int) (path string, w *world) {
	t.Helper()
	path, w = filepath.Join(t.TempDir(), "table.db"), town(services)
	s := open(t, path)
	s.Replace(w.table.Snapshot())
	finish(t, s)
	return path, w
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestATableThatIsThereIsNotWrittenAgain(t *testing.T) {
	path, w := written(t, 500)
	before := read(t, path)
	s := open(t, path)
	s.Replace(w.table.Snapshot())
	finish(t, s)
	if after := read(t, path); !bytes.Equal(before, after) {
		t.Error("the file was written")
	}
	w.slice(7, discoveryv1.AddressTypeIPv4, 8080, []int{7, 8, 250}) // one endpoint is another
	s = open(t, path)
	s.Replace(w.table.Snapshot())
	finish(t, s)
	after := read(t, path)
	page, changed := os.Getpagesize(), 0
	for at := 0; at < len(after); at += page {
		if at+page > len(before) || !bytes.Equal(before[at:at+page], after[at:at+page]) {
			changed++
		}
	}
	if pages := len(after) / page; pages < 50 || changed > 15 {
		t.Errorf("%d of %d pages changed with one endpoint", changed, pages)
	}
	equal(t, load(t, path), w.table.Snapshot())
}

// What a field of the table means must survive. One that is added makes this
// fail until the format knows it.
func TestEveryFieldOfATargetIsKept(t *testing.T) {
	var target servicetable.Target
	fill(reflect.ValueOf(&target).Elem())
	d := servicetable.Diff{Frontends: []servicetable.FrontendChange{{Frontend: newFrontend("192.0.2.1:80"), New: target}}}
	path := filepath.Join(t.TempDir(), "table.db")
	s := open(t, path)
	s.Replace(d)
	finish(t, s)
	equal(t, load(t, path), d)
}

// fill makes every field differ from its zero value.
func fill(v reflect.Value) {
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.Struct:
			fill(f)
		case reflect.Bool:
			f.SetBool(true)
		case reflect.String:
			f.SetString(v.Type().Field(i).Name)
		default:
			f.SetUint(uint64(i + 1))
		}
	}
}

func TestAFileThatIsNotOursIsSetAside(t *testing.T) {
	other := func(t *testing.T, fill func(tx *bbolt.Tx) error) []byte {
		path := filepath.Join(t.TempDir(), "other.db")
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(fill); err != nil {
			t.Fatal(err)
		}
		db.Close()
		return read(t, path)
	}
	for name, content := range map[string]func(t *testing.T) []byte{
		"a text": func(*testing.T) []byte { return []byte(strings.Repeat("not a database\n", 5000)) },
		"another program's database": func(t *testing.T) []byte {
			return other(t, func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("members")); return err })
		},
		"another version's": func(t *testing.T) []byte {
			return other(t, func(tx *bbolt.Tx) error {
				b, err := tx.CreateBucket([]byte("meta"))
				if err != nil {
					return err
				}
				return b.Put([]byte("format"), []byte("viaduct service table 0"))
			})
		},
		"the beginning of ours": func(t *testing.T) []byte {
			path, _ := written(t, 100)
			return read(t, path)[:20000]
		},
	} {
		t.Run(name, func(t *testing.T) {
			path, was := filepath.Join(t.TempDir(), "table.db"), content(t)
			if err := os.WriteFile(path, was, 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			s, err := laststate.Open(path, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			d, err := s.Load()
			if err != nil || !d.Empty() {
				t.Errorf("%v, %v", d, err)
			}
			if !strings.Contains(log.String(), "set aside") {
				t.Errorf("nobody is told: %s", &log)
			}
			if !bytes.Equal(read(t, path+laststate.Aside), was) {
				t.Error("the file that was set aside is another")
			}
			w := town(10)
			s.Replace(w.table.Snapshot())
			finish(t, s)
			equal(t, load(t, path), w.table.Snapshot())
		})
	}
}

func TestTheFileIsOneProcesss(t *testing.T) {
	path, _ := written(t, 1)
	s := open(t, path)
	defer finish(t, s)
	if _, err := laststate.Open(path, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(path + laststate.Aside); err == nil {
		t.Error("the file was taken from who has it")
	}
}

// Wherever bytes change, what is loaded is the table that was written or
// nothing: never another one.
func TestDamageIsNeverTakenForATable(t *testing.T) {
	path, w := written(t, 60)
	good, want := read(t, path), w.table.Snapshot()
	bad := filepath.Join(t.TempDir(), "table.db")
	whole, none := 0, 0
	check := func(name string, content []byte) {
		if err := os.WriteFile(bad, content, 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(bad)
		switch d := load(t, bad); len(d.Frontends) {
		case 0:
			none++
			if !d.Empty() {
				t.Errorf("%s: half a table", name)
			}
		default:
			whole++
			equal(t, d, want)
		}
	}
	for at := 0; at < len(good); at += 512 + 61 {
		flipped := bytes.Clone(good)
		flipped[at] ^= 0x55
		check(fmt.Sprint("byte ", at), flipped)
	}
	for at := 0; at < len(good); at += 4096 {
		check(fmt.Sprint("cut at ", at), good[:at])
		zeroed := bytes.Clone(good)
		clear(zeroed[at:min(at+4096, len(zeroed))])
		check(fmt.Sprint("page at ", at, " zeroed"), zeroed)
	}
	if whole == 0 || none == 0 {
		t.Errorf("%d whole, %d none: the test sees nothing", whole, none)
	}
}

func TestWritesAreRare(t *testing.T) {
	path, w := written(t, 5)
	transactions := func() int {
		copied := filepath.Join(t.TempDir(), "copy.db")
		if err := os.WriteFile(copied, read(t, path), 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := bbolt.Open(copied, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		n := 0
		_ = db.View(func(tx *bbolt.Tx) error { n = tx.ID(); return nil })
		return n
	}
	before := transactions()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, path)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		s.Replace(w.table.Snapshot())
		tick := time.NewTicker(5 * time.Millisecond)
		for n := range 2000 { // 200 a second for ten seconds
			<-tick.C
			w.slice(n%5, discoveryv1.AddressTypeIPv4, 8080, []int{n % 300})
			s.Add(w.table.Flush())
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
	// one a second, and the last
	if n := transactions() - before; n < 5 || n > 13 {
		t.Errorf("%d transactions in 10 s", n)
	}
	equal(t, load(t, path), w.table.Snapshot())
}
