package servicetable

import (
	"cmp"
	"net/netip"
)

// entry is a frontend: who wants it, best claim first, and what it led to at
// the last Flush.
type entry struct {
	front  front
	dirty  bool
	claims *claim
	told   told
}

// told is a Target, as its group sees it. The zero value is none.
type told struct {
	group              *group
	internal, external View
	hide               Hide
	guarded            bool
}

func (t told) target() Target {
	if t.group == nil {
		return Target{}
	}
	return Target{t.group.label, t.internal, t.external, t.hide, t.guarded}
}

// claim is a Service's wish for a frontend.
type claim struct {
	entry             *entry
	service           *service
	group             *group
	next              *claim
	behind            *service // that was told to have it instead
	external, guarded bool
}

func (t *Table) claim(c *claim, s *service, g *group, w wish) {
	e := t.frontends[w.front]
	if e == nil {
		e = &entry{front: w.front}
		t.frontends[w.front] = e
	}
	t.dirtyFront(e)
	*c = claim{entry: e, service: s, group: g, external: w.external, guarded: w.guarded}
	at := &e.claims
	for *at != nil && older(*at, c) {
		at = &(*at).next
	}
	c.next, *at = *at, c
}

func (t *Table) unclaim(c *claim) {
	t.dirtyFront(c.entry)
	for at := &c.entry.claims; *at != nil; at = &(*at).next {
		if *at == c {
			*at = c.next
			return
		}
	}
}

// older says who has a frontend that both want: cluster IPs first, since they
// are given out once, then the Service that was made first.
func older(a, b *claim) bool {
	if a.external != b.external {
		return !a.external
	}
	return cmp.Or(
		cmp.Compare(a.service.spec.created, b.service.spec.created),
		cmp.Compare(a.service.name.Namespace, b.service.name.Namespace),
		cmp.Compare(a.service.name.Name, b.service.name.Name),
	) < 0
}

func (t *Table) dirtyFront(e *entry) {
	if t.told && !e.dirty {
		e.dirty = true
		t.dirtyFronts = append(t.dirtyFronts, e)
	}
}

// dirtyGroup marks the frontends that show a group's size.
func (t *Table) dirtyGroup(g *group) {
	for i := range g.service.claims {
		if c := &g.service.claims[i]; c.group == g {
			t.dirtyFront(c.entry)
		}
	}
}

// now is what a frontend leads to.
func (e *entry) now() told {
	c := e.claims
	if c == nil {
		return told{}
	}
	spec := &c.service.spec
	if !c.external {
		v := c.group.view(spec.internalLocal)
		return told{group: c.group, internal: v, external: v, hide: HideOffCluster}
	}
	hide := HideEverybody
	if spec.externalLocal {
		hide = HideNode
	}
	return told{c.group, c.group.view(false), c.group.view(spec.externalLocal), hide, c.guarded}
}

// ranges are the source ranges of a frontend.
func (e *entry) ranges() (out []netip.Prefix) {
	if e.claims == nil || !e.claims.guarded {
		return nil
	}
	for _, p := range e.claims.service.spec.sources {
		if p.Addr().Is4() == e.front.ip.is4() {
			out = append(out, p)
		}
	}
	return out
}
