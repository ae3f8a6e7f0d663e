package nftables

import (
	"errors"
	"net/netip"
)

// clients are those that a table binds to a backend, with the time that is left.
// A table of another layout has none that could be kept.
func (c *conn) clients(f family) []element {
	var all []element
	var layout set
	for _, s := range f.sets() {
		if s.name == "aff" {
			layout = s
		}
	}
	err := c.elements(f.proto, "aff", func(e element) {
		if len(e.key) == int(layout.keyLen) && len(e.data) == int(layout.dataLen) && e.expiration > 0 && e.expiration <= e.timeout {
			all = append(all, e)
		}
	})
	if err != nil {
		return nil
	}
	return all
}

// Forget frees clients that are bound to backends which are gone.
func (s *Sink) Forget(gone []netip.AddrPort) error {
	var errs []error
	for _, f := range s.families {
		drop := map[string]bool{}
		for _, b := range gone {
			if b.Addr().Is6() == f.v6 {
				drop[backendData(b)] = true
			}
		}
		if len(drop) == 0 {
			continue
		}
		var changes []change
		err := s.conn.elements(f.proto, "aff", func(e element) {
			if drop[e.data] {
				changes = append(changes, change{del: &element{set: e.set, at: e.at}})
			}
		})
		errs = append(errs, err, s.program(f, changes))
	}
	return errors.Join(errs...)
}
