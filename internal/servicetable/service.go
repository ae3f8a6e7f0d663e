package servicetable

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// LabelProxyName hands a Service to another proxy.
const LabelProxyName = "service.kubernetes.io/service-proxy-name"

// service is a Service or the slices that await one.
type service struct {
	name     types.NamespacedName
	slices   []*slice
	spec     spec
	groups   []*group
	claims   []claim
	declared bool
	dirty    bool          // its health is
	health   *HealthChange // as told last; nil is nothing
}

// spec is what counts of a Service.
type spec struct {
	created       int64
	affinity      uint8
	externalLocal bool
	internalLocal bool
	healthPort    uint16
	sources       []netip.Prefix // who may dial its load-balancer addresses; nil for all
}

// wish is a frontend that a Service would have.
type wish struct {
	front    front
	key      portKey
	external bool // no cluster IP
	guarded  bool // only for the Service's source ranges
}

func (s spec) equal(o spec) bool {
	return s.created == o.created && s.affinity == o.affinity && s.externalLocal == o.externalLocal && s.internalLocal == o.internalLocal &&
		s.healthPort == o.healthPort && slices.Equal(s.sources, o.sources)
}

// has says whether a service has exactly these wishes.
func (s *service) has(wishes []wish) bool {
	return slices.EqualFunc(s.claims, wishes, func(c claim, w wish) bool {
		return c.entry.front == w.front && c.group.key == w.key && c.external == w.external && c.guarded == w.guarded
	})
}

func (s spec) needs(sc scope) bool {
	return sc == everywhere || s.internalLocal || s.externalLocal
}

// parseService returns no wishes for a Service that means nothing to a proxy.
func parseService(svc *corev1.Service) (spec, []wish) {
	out := spec{created: svc.CreationTimestamp.Unix(), affinity: affinityClass(svc)}
	_, other := svc.Labels[LabelProxyName]
	if other || svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return out, nil
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
	var all wishes
	for _, p := range svc.Spec.Ports {
		proto, ok := protocol(p.Protocol)
		if !ok || p.Port < 1 || p.Port > 65535 {
			continue
		}
		name := p.Name
		if name != "" {
			name = unique.Make(name).Value()
		}
		for _, a := range cluster {
			key := portKey{name, proto, a.Is4()}
			add := func(on netip.Addr, port int32, external, guarded bool) {
				if on.Is4() == a.Is4() {
					all.add(wish{front{ip(on.As16()), uint16(port), proto}, key, external, guarded})
				}
			}
			add(a, p.Port, false, false)
			// An address that is both is guarded: the narrower rule holds.
			for _, e := range balanced {
				add(e, p.Port, true, out.sources != nil)
			}
			for _, e := range outside {
				add(e, p.Port, true, false)
			}
			if nodePorts && p.NodePort > 0 && p.NodePort <= 65535 {
				any := netip.IPv6Unspecified()
				if a.Is4() {
					any = netip.IPv4Unspecified()
				}
				add(any, p.NodePort, true, false)
			}
		}
	}
	anyExternal := slices.ContainsFunc(all.list, func(w wish) bool { return w.external })
	out.externalLocal = anyExternal && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	return out, all.list
}

// wishes holds each frontend once; the first port that asks for it has it.
type wishes struct {
	list []wish
	seen map[front]struct{} // nil while there are few
}

func (ws *wishes) add(w wish) {
	if ws.seen == nil {
		if slices.ContainsFunc(ws.list, func(o wish) bool { return o.front == w.front }) {
			return
		}
		if len(ws.list) == 16 {
			ws.seen = map[front]struct{}{}
			for _, o := range ws.list {
				ws.seen[o.front] = struct{}{}
			}
		}
	}
	if ws.seen != nil {
		if _, ok := ws.seen[w.front]; ok {
			return
		}
		ws.seen[w.front] = struct{}{}
	}
	ws.list = append(ws.list, w)
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
func (t *Table) declare(s *service, next spec, wishes []wish) {
	affinityChanged := next.affinity != s.spec.affinity
	if next.healthPort != s.spec.healthPort || next.healthPort != 0 {
		t.dirtyHealth(s)
	}
	s.spec = next
	for i := range s.claims {
		t.unclaim(&s.claims[i])
	}
	have := make(map[portKey]*group, len(s.groups))
	for _, g := range s.groups {
		have[g.key] = g
	}
	want := make(map[portKey]*group, len(have))
	for _, w := range wishes {
		want[w.key] = have[w.key]
	}
	for _, g := range s.groups {
		if _, ok := want[g.key]; !ok {
			t.removeGroup(g)
			continue
		}
		for sc := range scopes {
			if affinityChanged || !next.needs(sc) {
				t.removePool(g, sc)
				t.noteOver(g, sc, false)
			}
			if next.needs(sc) && g.pools[sc] == nil && !g.over[sc] {
				t.addPool(g, sc)
			}
		}
	}
	s.groups = make([]*group, 0, len(want))
	s.claims = make([]claim, len(wishes))
	for i, w := range wishes {
		g := want[w.key]
		if g == nil {
			g = t.addGroup(s, w.key)
			want[w.key] = g
		}
		if !slices.Contains(s.groups[max(0, len(s.groups)-4):], g) {
			s.groups = append(s.groups, g)
		}
		t.claim(&s.claims[i], s, g, w)
	}
	if len(wishes) > 4 { // the window above may have let one in again
		slices.SortFunc(s.groups, func(a, b *group) int {
			return cmp.Or(cmp.Compare(a.key.name, b.key.name), cmp.Compare(a.key.protocol, b.key.protocol), b2i(a.key.v4)-b2i(b.key.v4))
		})
		s.groups = slices.Compact(s.groups)
	}
	t.serveWaiting()
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// healthNow is what the Service's health-check node port says now: like
// upstream it counts addresses, of the Service's first family.
func (s *service) healthNow() *HealthChange {
	if s.spec.healthPort == 0 || len(s.claims) == 0 {
		return nil
	}
	local := map[ip]struct{}{}
	for _, g := range s.groups {
		if g.key.v4 != s.claims[0].entry.front.ip.is4() {
			continue
		}
		for _, m := range g.members {
			if m.traits.has(readyHere) {
				local[m.ip] = struct{}{}
			}
		}
	}
	return &HealthChange{Service: s.name, Port: s.spec.healthPort, Local: len(local)}
}
