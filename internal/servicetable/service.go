package servicetable

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// LabelProxyName hands a Service to another proxy.
const LabelProxyName = "service.kubernetes.io/service-proxy-name"

// service is a Service or the slices that await one.
type service struct {
	name     types.NamespacedName
	slices   map[string]*slice
	spec     spec
	groups   map[portKey]*group
	claimed  []wish
	declared bool
	health   HealthChange // as told last
}

// spec is what counts of a Service.
type spec struct {
	created       int64
	affinity      uint8
	externalLocal bool
	internalLocal bool
	wishes        []wish
	sources       []netip.Prefix // who may dial its load-balancer addresses; nil for all
	healthPort    uint16
}

// wish is a frontend that a Service would have.
type wish struct {
	frontend Frontend
	key      portKey
	external bool // no cluster IP
	guarded  bool // only for the Service's source ranges
}

func (s spec) equal(o spec) bool {
	return s.created == o.created && s.affinity == o.affinity && s.externalLocal == o.externalLocal && s.internalLocal == o.internalLocal &&
		s.healthPort == o.healthPort && slices.Equal(s.wishes, o.wishes) && slices.Equal(s.sources, o.sources)
}

func (s spec) needs(sc scope) bool {
	return sc == everywhere || s.internalLocal || s.externalLocal
}

// parseService returns no wishes for a Service that means nothing to a proxy.
func parseService(svc *corev1.Service) spec {
	out := spec{created: svc.CreationTimestamp.Unix(), affinity: affinityClass(svc)}
	_, other := svc.Labels[LabelProxyName]
	if other || svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return out
	}
	out.internalLocal = svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	cluster := addresses(append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...))
	outside := addresses(svc.Spec.ExternalIPs)
	var balanced []netip.Addr
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		var ips []string
		for _, in := range svc.Status.LoadBalancer.Ingress {
			if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
				ips = append(ips, in.IP)
			}
		}
		balanced = addresses(ips)
		out.sources = sourceRanges(svc)
		if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && svc.Spec.HealthCheckNodePort > 0 && svc.Spec.HealthCheckNodePort <= 65535 {
			out.healthPort = uint16(svc.Spec.HealthCheckNodePort)
		}
	}
	nodePorts := svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeLoadBalancer
	for _, p := range svc.Spec.Ports {
		proto, ok := protocol(p.Protocol)
		if !ok || p.Port < 1 || p.Port > 65535 {
			continue
		}
		for _, a := range cluster {
			key := portKey{p.Name, proto, a.Is4()}
			out.wish(wish{frontend: Frontend{a, uint16(p.Port), proto}, key: key})
			// An address that is both is guarded: the narrower rule holds.
			for _, e := range balanced {
				if e.Is4() == a.Is4() {
					out.wish(wish{Frontend{e, uint16(p.Port), proto}, key, true, out.sources != nil})
				}
			}
			for _, e := range outside {
				if e.Is4() == a.Is4() {
					out.wish(wish{Frontend{e, uint16(p.Port), proto}, key, true, false})
				}
			}
			if nodePorts && p.NodePort > 0 && p.NodePort <= 65535 {
				any := netip.IPv6Unspecified()
				if a.Is4() {
					any = netip.IPv4Unspecified()
				}
				out.wish(wish{Frontend{any, uint16(p.NodePort), proto}, key, true, false})
			}
		}
	}
	anyExternal := slices.ContainsFunc(out.wishes, func(w wish) bool { return w.external })
	out.externalLocal = anyExternal && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	return out
}

// sourceRanges are those of spec.loadBalancerSourceRanges or, where that is
// empty, of the annotation that came before it. Nil lets everybody in; what no
// range can be parsed of lets nobody in.
func sourceRanges(svc *corev1.Service) []netip.Prefix {
	texts := svc.Spec.LoadBalancerSourceRanges
	if len(texts) == 0 {
		if text := strings.TrimSpace(svc.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]); text != "" {
			texts = strings.Split(text, ",")
		}
	}
	if len(texts) == 0 {
		return nil
	}
	ranges := []netip.Prefix{}
	for _, text := range texts {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			continue
		}
		// Of ranges one of which holds the other, the wider says it all.
		p = p.Masked()
		holds := func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }
		if slices.ContainsFunc(ranges, holds) {
			continue
		}
		ranges = slices.DeleteFunc(ranges, func(q netip.Prefix) bool { return p.Contains(q.Addr()) })
		ranges = append(ranges, p)
	}
	return ranges
}

// wish adds a frontend once; the first port that asks for it has it.
func (s *spec) wish(w wish) {
	if !slices.ContainsFunc(s.wishes, func(o wish) bool { return o.frontend == w.frontend }) {
		s.wishes = append(s.wishes, w)
	}
}

// addresses parses those that are of use, each once.
func addresses(texts []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range texts {
		if a, ok := parseAddr(s); ok && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// declare makes a service be what its spec says.
func (t *Table) declare(s *service, next spec) {
	keys := map[portKey]bool{}
	for _, w := range next.wishes {
		keys[w.key] = true
	}
	for key, g := range s.groups {
		if !keys[key] {
			t.removeGroup(g)
			delete(s.groups, key)
		}
	}
	changed := next.affinity != s.spec.affinity
	if next.healthPort != s.spec.healthPort {
		t.dirtyHealth[s] = struct{}{}
	}
	s.spec = next
	for _, w := range next.wishes {
		key := w.key
		if !keys[key] {
			continue // done
		}
		delete(keys, key)
		g := s.groups[key]
		if g == nil {
			s.groups[key] = t.addGroup(s, key)
			continue
		}
		for sc := range scopes {
			if changed || !next.needs(sc) {
				t.removePool(g, sc)
			}
			if next.needs(sc) && g.pools[sc] == nil {
				t.addPool(g, sc, next.affinity)
			}
		}
	}
	for _, w := range s.claimed {
		t.unclaim(s, w.frontend)
	}
	for _, w := range next.wishes {
		t.claim(s, w)
	}
	s.claimed = next.wishes
}

// healthNow is what the Service's health-check node port says now: like
// upstream it counts addresses, of the Service's first family.
func (s *service) healthNow() HealthChange {
	h := HealthChange{Service: s.name, Port: s.spec.healthPort}
	if h.Port == 0 || len(s.claimed) == 0 {
		return HealthChange{Service: s.name}
	}
	local := map[netip.Addr]struct{}{}
	for _, g := range s.groups {
		if g.key.v4 != s.claimed[0].frontend.Addr.Is4() {
			continue
		}
		for ap, m := range g.members {
			if m.has(nReadyHere) {
				local[ap.Addr()] = struct{}{}
			}
		}
	}
	h.Local = len(local)
	return h
}

func (t *Table) addGroup(s *service, key portKey) *group {
	g := &group{key: key, service: s, label: s.name.String(), members: map[netip.AddrPort]member{}}
	if key.name != "" {
		g.label += ":" + key.name
	}
	for _, sl := range s.slices {
		t.countSlice(g, sl, +1)
	}
	t.settle(g)
	for sc := range scopes {
		if s.spec.needs(sc) {
			t.addPool(g, sc, s.spec.affinity)
		}
	}
	return g
}

func (t *Table) removeGroup(g *group) {
	for sc := range scopes {
		t.removePool(g, sc)
	}
	for ap, m := range g.members {
		if m.isHere() {
			t.countLocal(ap.Addr(), false)
		}
		if m.since != t.flushes {
			t.left[g] = append(t.left[g], ap)
		}
	}
	clear(g.members)
	t.dirtyGroup(g)
}

// countSlice counts the endpoints of a slice that belong to a group.
func (t *Table) countSlice(g *group, sl *slice, delta int) {
	if sl == nil || sl.v4 != g.key.v4 {
		return
	}
	for _, p := range sl.ports {
		if p.name != g.key.name || p.protocol != g.key.protocol {
			continue
		}
		for _, e := range sl.endpoints {
			t.count(g, netip.AddrPortFrom(e.addr, p.port), e.traits, delta)
		}
	}
}

// recount replaces one slice of a group by another.
func (t *Table) recount(g *group, old, next *slice) {
	if old != nil && next != nil && old.v4 == next.v4 && slices.Equal(old.ports, next.ports) {
		// The usual case: endpoints changed. Those in their old place are skipped.
		for _, p := range next.ports {
			if next.v4 != g.key.v4 || p.name != g.key.name || p.protocol != g.key.protocol {
				continue
			}
			for i := range max(len(old.endpoints), len(next.endpoints)) {
				inOld, inNext := i < len(old.endpoints), i < len(next.endpoints)
				if inOld && inNext && old.endpoints[i] == next.endpoints[i] {
					continue
				}
				if inNext {
					e := next.endpoints[i]
					t.count(g, netip.AddrPortFrom(e.addr, p.port), e.traits, +1)
				}
				if inOld {
					e := old.endpoints[i]
					t.count(g, netip.AddrPortFrom(e.addr, p.port), e.traits, -1)
				}
			}
		}
	} else {
		t.countSlice(g, next, +1)
		t.countSlice(g, old, -1)
	}
	t.settle(g)
}

func (s *service) target(w wish) Target {
	g := s.groups[w.key]
	if !w.external {
		v := g.view(s.spec.internalLocal)
		return Target{Service: g.label, Internal: v, External: v, Hide: HideOffCluster}
	}
	hide := HideEverybody
	if s.spec.externalLocal {
		hide = HideNode
	}
	return Target{
		Service:  g.label,
		Internal: g.view(false),
		External: g.view(s.spec.externalLocal),
		Hide:     hide,
		Guarded:  w.guarded,
	}
}

// older says who has a frontend that both want: cluster IPs first, since they
// are given out once, then the Service that was made first.
func older(a, b *claim) bool {
	if a.wish.external != b.wish.external {
		return !a.wish.external
	}
	if a.service.spec.created != b.service.spec.created {
		return a.service.spec.created < b.service.spec.created
	}
	return a.service.name.String() < b.service.name.String()
}
