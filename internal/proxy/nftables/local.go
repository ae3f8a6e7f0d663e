package nftables

import (
	"errors"
	"net/netip"
	"slices"

	"viaduct.dev/viaduct/internal/servicetable"
)

// SetLocal says which addresses a server on this node itself answers at, such as
// that of the cluster's DNS: packets to and from them are not tracked, and so are
// not Services'. An empty list withdraws it.
func (s *Sink) SetLocal(servers []netip.AddrPort) error {
	var errs []error
	for _, f := range s.families {
		have := []element{}
		err := s.conn.elements(f.proto, "local", func(e element) { have = append(have, e) })
		var want []element
		for _, a := range servers {
			if a.Addr().Is6() == f.v6 {
				for _, p := range []servicetable.Protocol{servicetable.TCP, servicetable.UDP} {
					want = append(want, element{set: "local", at: at{key: frontKey(a.Addr(), uint8(p), a.Port())}})
				}
			}
		}
		var changes []change
		for _, e := range have {
			if !slices.Contains(want, e) {
				changes = append(changes, change{del: &e})
			}
		}
		for _, e := range want {
			if !slices.Contains(have, e) {
				changes = append(changes, change{add: &e})
			}
		}
		errs = append(errs, err, s.program(f, changes))
	}
	return errors.Join(errs...)
}
