package histories

import (
	"errors"
	"log/slog"
	"net/netip"
	"testing"

	"viaduct.dev/viaduct/internal/proxy/conntrack"
	"viaduct.dev/viaduct/internal/proxy/nftables"
	"viaduct.dev/viaduct/internal/proxy/oracle"
	"viaduct.dev/viaduct/internal/proxy/planetest"
	"viaduct.dev/viaduct/internal/servicetable"
)

// plane is the real thing: the table and the kernel that it is programmed into.
type plane struct {
	world *planetest.World
	table *servicetable.Table
	sink  *nftables.Sink
	ct    *conntrack.Conn
}

func openSink(w *planetest.World, node oracle.Node) (s *nftables.Sink, prior servicetable.Prior, err error) {
	err = w.Do(func() error {
		s, prior, err = nftables.Open(nftables.Config{Log: slog.New(slog.DiscardHandler)}, nftables.Node{
			NodePortAddresses: node.NodePortAddresses, Masquerade: node.Addresses[:2],
			LocalCIDRs: node.LocalCIDRs, ServiceCIDRs: node.ServiceCIDRs,
		})
		return err
	})
	return s, prior, err
}

func newPlane(t testing.TB, w *planetest.World) *plane {
	p := &plane{world: w}
	if err := w.Do(func() (err error) { p.ct, err = conntrack.Open(); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.ct.Close()
		if p.sink != nil {
			p.sink.Close()
		}
	})
	return p
}

// clear makes the kernel be as if nobody had been there.
func (p *plane) clear() error {
	if p.sink != nil {
		p.sink.Close()
		p.sink = nil
	}
	return p.world.Do(nftables.Cleanup)
}

// begin is the start of a proxy that knows what the cluster holds.
func (p *plane) begin(c *cluster) error {
	if p.sink != nil {
		p.sink.Close()
	}
	sink, prior, err := openSink(p.world, c.node)
	if p.sink = sink; err != nil {
		return err
	}
	p.table = servicetable.New(servicetable.Config{NodeName: c.node.Name, Zone: c.node.Zone})
	for _, s := range c.services {
		p.table.SetService(s)
	}
	for _, s := range c.slices {
		p.table.SetSlice(s)
	}
	p.table.Adopt(prior)
	all := p.table.Snapshot()
	return p.sink.Apply(&all)
}

// take enters a step into the table.
func (p *plane) take(s Step) {
	switch {
	case s.Service != nil:
		p.table.SetService(s.Service)
	case s.DeleteService != "":
		p.table.DeleteService(named(s.DeleteService), "")
	case s.Slice != nil:
		p.table.SetSlice(s.Slice)
	case s.DeleteSlice != "":
		p.table.DeleteSlice(named(s.DeleteSlice), "")
	case s.Zone != nil:
		p.table.SetZone(*s.Zone)
	}
}

// program does what the proxy does with a change.
func (p *plane) program() error {
	d := p.table.Flush()
	errs := []error{p.sink.Apply(&d)}
	var flows []conntrack.Flow
	var bound []servicetable.Gone
	for _, g := range d.Gone {
		if g.Frontend.Protocol == servicetable.UDP && !g.Serving {
			flows = append(flows, conntrack.Flow{Frontend: netip.AddrPortFrom(g.Frontend.Addr, g.Frontend.Port), Backend: g.Backend})
		}
		if g.Affinity {
			bound = append(bound, g)
		}
	}
	for _, c := range d.Frontends {
		begins := func(old, now servicetable.View) bool {
			return old.Verdict != servicetable.Serve && now.Verdict == servicetable.Serve
		}
		if c.Frontend.Protocol == servicetable.UDP && (begins(c.Old.Internal, c.New.Internal) || begins(c.Old.External, c.New.External)) {
			flows = append(flows, conntrack.Flow{Frontend: netip.AddrPortFrom(c.Frontend.Addr, c.Frontend.Port)})
		}
	}
	return errors.Join(append(errs, p.ct.Free(flows), p.sink.Forget(bound))...)
}
