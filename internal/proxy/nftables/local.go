package nftables

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"viaduct.dev/viaduct/internal/servicetable"
)

// SetLocal says which addresses a server on this node itself answers at, such as
// that of the cluster's DNS: packets to and from them are not tracked, and so are
// not Services'. An empty list withdraws it. Only while there are such servers,
// their chains are there: every packet pays for them.
func (s *Sink) SetLocal(servers []netip.AddrPort) error {
	var errs []error
	for _, f := range s.families {
		var want []element
		for _, a := range servers {
			if a.Addr().Is6() != f.v6 {
				continue
			}
			for _, p := range []servicetable.Protocol{servicetable.TCP, servicetable.UDP} {
				want = append(want, element{set: "local", at: at{key: frontKey(a.Addr(), uint8(p), a.Port())}})
			}
		}
		errs = append(errs, s.setLocal(f, want))
	}
	return errors.Join(errs...)
}

func (s *Sink) setLocal(f *programmed, want []element) error {
	if f.fresh {
		if len(want) == 0 {
			return nil
		}
		return errors.New("exempt servers: there is no table yet")
	}
	var have []element
	if err := s.conn.elements(f.proto, "local", func(e element) { have = append(have, e) }); err != nil {
		return fmt.Errorf("read set local: %w", err)
	}
	names, err := s.conn.chainNames(f.proto)
	if err != nil {
		return fmt.Errorf("read table %s: %w", TableName, err)
	}
	chains := f.local()
	there := slices.Contains(names, chains[0].name)
	t := newBatch(f.proto)
	if len(want) > 0 && !there {
		t.newChains(chains)
	}
	if len(want) == 0 && there {
		t.deleteChains(chains)
	}
	for _, c := range difference(have, want) {
		t.change(&c)
	}
	return s.commit(t, len(have)+len(want))
}
