package servicetable

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

func service4(name string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"},
			Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

// ourNode is whose table the tests look at.
var ourNode = Config{NodeName: "node-1", Zone: "a"}

// slice4 has endpoints such as "10.0.0.1 ready here zone=a node=node-1".
func slice4(name, svc string, endpoints ...string) *discoveryv1.EndpointSlice {
	port, proto, unnamed := int32(8080), corev1.ProtocolTCP, ""
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: svc}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &unnamed, Port: &port, Protocol: &proto}},
	}
	for _, text := range endpoints {
		words := strings.Fields(text)
		has := func(w string) *bool { b := slices.Contains(words, w); return &b }
		node := "elsewhere"
		if *has("here") {
			node = "node-1"
		}
		serving := *has("ready") || *has("ending")
		var hints discoveryv1.EndpointHints
		for _, w := range words[1:] {
			if zone, ok := strings.CutPrefix(w, "zone="); ok {
				hints.ForZones = append(hints.ForZones, discoveryv1.ForZone{Name: zone})
			} else if node, ok := strings.CutPrefix(w, "node="); ok {
				hints.ForNodes = append(hints.ForNodes, discoveryv1.ForNode{Name: node})
			}
		}
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{words[0]}, NodeName: &node, Hints: &hints,
			Conditions: discoveryv1.EndpointConditions{Ready: has("ready"), Serving: &serving, Terminating: has("ending")},
		})
	}
	return s
}

func external(p corev1.ServiceExternalTrafficPolicy, port int32) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalTrafficPolicy, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, p, port
	}
}

// held is what a data plane that follows the diffs holds.
type held struct {
	frontends map[Frontend]Target
	slots     map[PoolID]map[uint32]netip.AddrPort
	local     map[netip.Addr]bool
	sources   map[SourceChange]bool
	health    map[types.NamespacedName]HealthChange
	conflicts []Conflict // of the last diff
}

func newHeld() *held {
	return &held{frontends: map[Frontend]Target{}, slots: map[PoolID]map[uint32]netip.AddrPort{}, local: map[netip.Addr]bool{},
		sources: map[SourceChange]bool{}, health: map[types.NamespacedName]HealthChange{}}
}

func (h *held) apply(t interface{ Fatalf(string, ...any) }, d Diff) {
	for _, c := range d.Frontends {
		if h.frontends[c.Frontend] != c.Old {
			t.Fatalf("%s: old target %+v, held %+v", c.Frontend, c.Old, h.frontends[c.Frontend])
		}
		h.frontends[c.Frontend] = c.New
		if c.New == (Target{}) {
			delete(h.frontends, c.Frontend)
		}
	}
	for _, c := range d.Slots {
		p := h.slots[c.Pool]
		if p == nil {
			p = map[uint32]netip.AddrPort{}
			h.slots[c.Pool] = p
		}
		if p[c.Slot] != c.Old {
			t.Fatalf("slot %x/%d: old %s, held %s", c.Pool, c.Slot, c.Old, p[c.Slot])
		}
		p[c.Slot] = c.New
		if !c.New.IsValid() {
			delete(p, c.Slot)
		}
	}
	for _, c := range d.Sources {
		added := c.Added
		c.Added = true
		if h.sources[c] == added {
			t.Fatalf("range %s of %s: told twice", c.Range, c.Frontend)
		}
		h.sources[c] = added
		if !added {
			delete(h.sources, c)
		}
	}
	for _, c := range d.Health {
		h.health[c.Service] = c
		if c.Port == 0 {
			delete(h.health, c.Service)
		}
	}
	h.conflicts = slices.Clone(d.Conflicts)
	for _, c := range d.Local {
		if h.local[c.Addr] == c.Added {
			t.Fatalf("local %s: told twice", c.Addr)
		}
		h.local[c.Addr] = c.Added
		if !c.Added {
			delete(h.local, c.Addr)
		}
	}
}

// text is what is held without numbers of pools and slots.
func (h *held) text() string {
	var lines []string
	view := func(v View) string {
		names := []string{"none", "serve", "refuse", "drop"}
		var backends []string
		for _, ap := range h.slots[v.Pool] {
			backends = append(backends, ap.String())
		}
		slices.Sort(backends)
		if v.Verdict == Serve && len(backends) != int(v.Size) {
			backends = append(backends, fmt.Sprintf("(size %d)", v.Size))
		}
		for i := range v.Size {
			if !h.slots[v.Pool][i].IsValid() {
				backends = append(backends, fmt.Sprintf("(hole %d)", i))
			}
		}
		return fmt.Sprintf("%s%d%v", names[v.Verdict], v.Pool.AffinityClass(), backends)
	}
	for f, t := range h.frontends {
		guarded := ""
		if t.Guarded {
			guarded = " guarded"
		}
		lines = append(lines, fmt.Sprintf("%s %s in %s out %s masq %v%s", f, t.Service, view(t.Internal), view(t.External), t.Hide == HideEverybody, guarded))
	}
	for a := range h.local {
		lines = append(lines, "local "+a.String())
	}
	for c := range h.sources {
		lines = append(lines, fmt.Sprintf("%s from %s", c.Frontend, c.Range))
	}
	for _, c := range h.health {
		lines = append(lines, fmt.Sprintf("health %d: %s has %d", c.Port, c.Service, c.Local))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestFrontendsLeadWhereThePolicySays(t *testing.T) {
	remote := []string{"10.0.0.1 ready", "10.0.0.2 ready"}
	for name, c := range map[string]struct {
		svc       *corev1.Service
		endpoints []string
		want      string // of the last frontend
	}{
		"a cluster IP serves all": {service4("a"), remote, "10.96.0.1:80/tcp default/a in serve0[10.0.0.1:8080 10.0.0.2:8080] out serve0[10.0.0.1:8080 10.0.0.2:8080] masq false"},
		"nobody ready refuses":    {service4("a"), []string{"10.0.0.1 starting"}, "10.96.0.1:80/tcp default/a in refuse0[] out refuse0[] masq false"},
		"ending ones serve while nobody is ready": {service4("a"), []string{"10.0.0.1 ending", "10.0.0.2 starting"},
			"10.96.0.1:80/tcp default/a in serve0[10.0.0.1:8080] out serve0[10.0.0.1:8080] masq false"},
		"ending ones rest while one is ready": {service4("a"), []string{"10.0.0.1 ending", "10.0.0.2 ready"},
			"10.96.0.1:80/tcp default/a in serve0[10.0.0.2:8080] out serve0[10.0.0.2:8080] masq false"},
		"a local node port drops outsiders without a local endpoint": {service4("a", external("Local", 30080)), remote,
			"0.0.0.0:30080/tcp default/a in serve0[10.0.0.1:8080 10.0.0.2:8080] out drop0[] masq false"},
		"a local node port serves outsiders locally": {service4("a", external("Local", 30080)), []string{"10.0.0.1 ready", "10.0.0.2 ready here"},
			"0.0.0.0:30080/tcp default/a in serve0[10.0.0.1:8080 10.0.0.2:8080] out serve0[10.0.0.2:8080] masq false"},
		"a cluster node port is masqueraded": {service4("a", external("Cluster", 30080)), remote[:1],
			"0.0.0.0:30080/tcp default/a in serve0[10.0.0.1:8080] out serve0[10.0.0.1:8080] masq true"},
		"affinity is in the pool's number": {service4("a", func(s *corev1.Service) { s.Spec.SessionAffinity = "ClientIP" }), remote[:1],
			"10.96.0.1:80/tcp default/a in serve11[10.0.0.1:8080] out serve11[10.0.0.1:8080] masq false"},
		"loopback endpoints are left out": {service4("a"), []string{"127.0.0.1 ready"}, "10.96.0.1:80/tcp default/a in refuse0[] out refuse0[] masq false"},
	} {
		t.Run(name, func(t *testing.T) {
			table := New(ourNode)
			table.SetSlice(slice4("a-1", "a", c.endpoints...))
			table.SetService(c.svc)
			h := newHeld()
			h.apply(t, table.Flush())
			if !slices.Contains(strings.Split(h.text(), "\n"), c.want) {
				t.Errorf("got\n%s\nwant\n%s", h.text(), c.want)
			}
		})
	}
}

func TestHintsCountWhenEveryReadyEndpointHasOneAndOneFits(t *testing.T) {
	for name, c := range map[string]struct {
		endpoints []string
		want      string
	}{
		"the zone's":                            {[]string{"10.0.0.1 ready zone=a", "10.0.0.2 ready zone=b", "10.0.0.3 ready zone=b zone=a"}, "10.0.0.1 10.0.0.3"},
		"all, when none is for the zone":        {[]string{"10.0.0.1 ready zone=c", "10.0.0.2 ready zone=b"}, "10.0.0.1 10.0.0.2"},
		"all, when one has no hint":             {[]string{"10.0.0.1 ready zone=a", "10.0.0.2 ready"}, "10.0.0.1 10.0.0.2"},
		"one that is not ready does not count":  {[]string{"10.0.0.1 ready zone=a", "10.0.0.2 starting", "10.0.0.3 ending", "10.0.0.4 ready zone=b"}, "10.0.0.1"},
		"the node's before the zone's":          {[]string{"10.0.0.1 ready zone=a node=node-2", "10.0.0.2 ready zone=a node=node-1"}, "10.0.0.2"},
		"the zone's, when none is for the node": {[]string{"10.0.0.1 ready zone=a node=node-2", "10.0.0.2 ready zone=b node=node-3"}, "10.0.0.1"},
		"the zone's, when one has no node":      {[]string{"10.0.0.1 ready zone=a", "10.0.0.2 ready zone=b node=node-1"}, "10.0.0.1"},
		"the ending ones know no hints":         {[]string{"10.0.0.1 ending zone=a", "10.0.0.2 ending zone=b"}, "10.0.0.1 10.0.0.2"},
	} {
		t.Run(name, func(t *testing.T) {
			table := New(ourNode)
			table.SetService(service4("a"))
			table.SetSlice(slice4("a-1", "a", c.endpoints...))
			h := newHeld()
			h.apply(t, table.Flush())
			want := "serve0[" + strings.ReplaceAll(c.want, " ", ":8080 ") + ":8080]"
			if !strings.Contains(h.text(), "in "+want) {
				t.Errorf("got\n%s\nwant %s", h.text(), want)
			}
			// A local policy knows no hints.
			local := corev1.ServiceInternalTrafficPolicyLocal
			table.SetService(service4("a", func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = &local }))
			table.SetSlice(slice4("a-1", "a", "10.0.0.1 ready here zone=b", "10.0.0.2 ready zone=a"))
			h.apply(t, table.Flush())
			if !strings.Contains(h.text(), "in serve0[10.0.0.1:8080]") {
				t.Errorf("with a local policy\n%s", h.text())
			}
		})
	}
}

func TestANewZoneIsHeededAtOnce(t *testing.T) {
	table := New(Config{NodeName: "node-1"})
	table.SetService(service4("a"))
	slice := slice4("a-1", "a", "10.0.0.1 ready zone=a", "10.0.0.2 ready zone=b")
	table.SetSlice(slice)
	h := newHeld()
	h.apply(t, table.Flush())
	if !strings.Contains(h.text(), "in serve0[10.0.0.1:8080 10.0.0.2:8080]") {
		t.Errorf("without a zone\n%s", h.text())
	}
	table.SetZone("b")
	h.apply(t, table.Flush())
	if !strings.Contains(h.text(), "in serve0[10.0.0.2:8080]") {
		t.Errorf("in zone b\n%s", h.text())
	}
}

func balancer(change ...func(*corev1.Service)) *corev1.Service {
	return service4("lb", append([]func(*corev1.Service){func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.Ports[0].NodePort, s.Spec.HealthCheckNodePort = 30080, 32000
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "172.20.255.1"}}
		s.Spec.ExternalIPs = []string{"192.0.2.80"}
	}}, change...)...)
}

func TestSourceRangesGuardTheBalancersAddressAlone(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.Service)
		want   string
	}{
		"none": {func(*corev1.Service) {}, ""},
		"of the field, host bits masked, the other family's left out": {func(s *corev1.Service) {
			s.Spec.LoadBalancerSourceRanges = []string{"203.0.113.9/24", "2001:db8::/32", "203.0.113.0/24"}
		}, "172.20.255.1:80/tcp from 203.0.113.0/24"},
		"of the annotation": {func(s *corev1.Service) {
			s.Annotations = map[string]string{"service.beta.kubernetes.io/load-balancer-source-ranges": " 203.0.113.0/24, 198.51.100.0/24"}
		}, "172.20.255.1:80/tcp from 198.51.100.0/24\n172.20.255.1:80/tcp from 203.0.113.0/24"},
		"the wider of two that overlap": {func(s *corev1.Service) {
			s.Spec.LoadBalancerSourceRanges = []string{"203.0.113.8/32", "203.0.113.0/24", "203.0.113.64/26", "0.0.0.0/5"}
		}, "172.20.255.1:80/tcp from 0.0.0.0/5\n172.20.255.1:80/tcp from 203.0.113.0/24"},
		"the field before the annotation": {func(s *corev1.Service) {
			s.Annotations = map[string]string{"service.beta.kubernetes.io/load-balancer-source-ranges": "203.0.113.0/24"}
			s.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"}
		}, "172.20.255.1:80/tcp from 198.51.100.0/24"},
	} {
		t.Run(name, func(t *testing.T) {
			table, h := New(ourNode), newHeld()
			table.SetService(balancer(c.change))
			table.SetSlice(slice4("lb-1", "lb", "10.0.0.1 ready here"))
			h.apply(t, table.Flush())
			var got, guarded []string
			for _, line := range strings.Split(h.text(), "\n") {
				if strings.Contains(line, " from ") {
					got = append(got, line)
				}
				if strings.HasSuffix(line, " guarded") {
					guarded = append(guarded, strings.Fields(line)[0])
				}
			}
			if strings.Join(got, "\n") != c.want {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), c.want)
			}
			if want := c.want != ""; want != (fmt.Sprint(guarded) == "[172.20.255.1:80/tcp]") {
				t.Errorf("guarded are %v", guarded)
			}
			// Without them nobody is kept out any more.
			table.SetService(balancer())
			h.apply(t, table.Flush())
			if len(h.sources) > 0 {
				t.Errorf("left: %v", h.sources)
			}
		})
	}
}

func TestAHealthCheckPortTellsTheReadyEndpointsOfThisNode(t *testing.T) {
	table, h := New(ourNode), newHeld()
	health := func(want string) {
		t.Helper()
		h.apply(t, table.Flush())
		if got := fmt.Sprint(h.health[types.NamespacedName{Namespace: "default", Name: "lb"}]); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	table.SetService(balancer())
	health("{default/lb 32000 0}")
	table.SetSlice(slice4("lb-1", "lb", "10.0.0.1 ready here", "10.0.0.2 ready here", "10.0.0.3 ready", "10.0.0.4 ending here"))
	health("{default/lb 32000 2}")
	table.SetSlice(slice4("lb-1", "lb", "10.0.0.1 ready here", "10.0.0.2 ending here"))
	health("{default/lb 32000 1}")
	table.SetService(balancer(func(s *corev1.Service) { s.Spec.HealthCheckNodePort = 32001 }))
	health("{default/lb 32001 1}")
	table.SetService(balancer(func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster }))
	health("{/ 0 0}")
	table.SetService(balancer())
	health("{default/lb 32000 1}")
	table.DeleteService(types.NamespacedName{Namespace: "default", Name: "lb"}, "")
	health("{/ 0 0}")
}

func TestOneEndpointChangesTwoSlotsAtMost(t *testing.T) {
	table := New(ourNode)
	var all []string
	for i := range 200 {
		all = append(all, fmt.Sprintf("10.0.1.%d ready", i+1))
	}
	table.SetService(service4("a"))
	table.SetSlice(slice4("a-1", "a", all...))
	table.Flush()
	table.SetSlice(slice4("a-1", "a", all[1:]...))
	d := table.Flush()
	if len(d.Slots) != 2 || len(d.Frontends) != 1 || len(d.Gone) != 1 {
		t.Errorf("%d slots, %d frontends, %d gone", len(d.Slots), len(d.Frontends), len(d.Gone))
	}
}

func TestTheOlderServiceHasTheAddress(t *testing.T) {
	claim := func(name string, created int64) *corev1.Service {
		return service4(name, func(s *corev1.Service) {
			s.CreationTimestamp = metav1.Unix(created, 0)
			s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.0."+name, nil
			s.Spec.ExternalIPs = []string{"192.0.2.1"}
		})
	}
	table := New(Config{})
	fe := Frontend{netip.MustParseAddr("192.0.2.1"), 80, TCP}
	h := newHeld()
	table.SetService(claim("7", 200))
	table.SetService(claim("8", 100))
	h.apply(t, table.Flush())
	if got := h.frontends[fe].Service; got != "default/8" {
		t.Errorf("held by %s", got)
	}
	if got := fmt.Sprint(h.conflicts); got != "[{192.0.2.1:80/tcp default/7 default/8}]" {
		t.Errorf("conflicts %s", got)
	}
	again := claim("7", 200)
	again.Status.Conditions = []metav1.Condition{{Type: "Told"}}
	table.SetService(again)
	h.apply(t, table.Flush())
	if len(h.conflicts) > 0 {
		t.Errorf("told again: %v", h.conflicts)
	}
	table.DeleteService(types.NamespacedName{Namespace: "default", Name: "8"}, "")
	h.apply(t, table.Flush())
	if got := h.frontends[fe].Service; got != "default/7" {
		t.Errorf("then held by %s", got)
	}
}

// world is the objects that a history has left.
type world struct {
	services map[string]*corev1.Service
	slices   map[string]*discoveryv1.EndpointSlice
}

func (w world) compile() *Table {
	table := New(ourNode)
	for _, s := range w.services {
		table.SetService(s)
	}
	for _, s := range w.slices {
		table.SetSlice(s)
	}
	return table
}

func drawService(t *rapid.T, name string) *corev1.Service {
	s := service4(name)
	s.Spec.ClusterIP = rapid.SampledFrom([]string{"10.96.0.1", "10.96.0.2", "None"}).Draw(t, "ip")
	s.Spec.ClusterIPs = nil
	s.CreationTimestamp = metav1.Unix(rapid.Int64Range(1, 3).Draw(t, "created"), 0)
	if rapid.Bool().Draw(t, "external") {
		external(rapid.SampledFrom([]corev1.ServiceExternalTrafficPolicy{"Local", "Cluster"}).Draw(t, "policy"), 30080)(s)
		s.Spec.ExternalIPs = []string{"192.0.2.1"}
	}
	if rapid.Bool().Draw(t, "internal") {
		local := corev1.ServiceInternalTrafficPolicyLocal
		s.Spec.InternalTrafficPolicy = &local
	}
	if rapid.Bool().Draw(t, "balancer") {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.HealthCheckNodePort = rapid.Int32Range(0, 1).Draw(t, "health") * 32000
		s.Spec.LoadBalancerSourceRanges = rapid.SliceOfN(rapid.SampledFrom([]string{"192.0.2.0/24", "198.51.100.7/24", "2001:db8::/32"}), 0, 3).Draw(t, "ranges")
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "172.20.255.1"}}
	}
	if rapid.Bool().Draw(t, "affinity") {
		s.Spec.SessionAffinity = "ClientIP"
	}
	return s
}

func TestAnyHistoryEqualsAFreshTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world{map[string]*corev1.Service{}, map[string]*discoveryv1.EndpointSlice{}}
		table, h := New(ourNode), newHeld()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "service")
			key := types.NamespacedName{Namespace: "default", Name: name}
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				w.services[name] = drawService(t, name)
				table.SetService(w.services[name])
			case 1:
				delete(w.services, name)
				table.DeleteService(key, "")
			case 2:
				key.Name = rapid.SampledFrom([]string{"s1", "s2", "s3"}).Draw(t, "slice")
				delete(w.slices, key.Name)
				table.DeleteSlice(key, "")
			default:
				slice := rapid.SampledFrom([]string{"s1", "s2", "s3"}).Draw(t, "slice")
				endpoints := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string {
					return fmt.Sprintf("10.0.0.%d %s %s %s %s", rapid.IntRange(1, 6).Draw(t, "ip"),
						rapid.SampledFrom([]string{"ready", "ending", "starting"}).Draw(t, "state"),
						rapid.SampledFrom([]string{"here", "there"}).Draw(t, "node"),
						rapid.SampledFrom([]string{"", "zone=a", "zone=a zone=b", "zone=b"}).Draw(t, "zone"),
						rapid.SampledFrom([]string{"", "node=node-1", "node=node-2"}).Draw(t, "for"))
				}), 0, 5).Draw(t, "endpoints")
				w.slices[slice] = slice4(slice, name, endpoints...)
				table.SetSlice(w.slices[slice])
			}
			if rapid.Bool().Draw(t, "flush") {
				h.apply(t, table.Flush())
			}
		}
		h.apply(t, table.Flush())
		fresh := newHeld()
		other := w.compile()
		fresh.apply(t, other.Flush())
		if h.text() != fresh.text() {
			t.Fatalf("history\n%s\nfresh\n%s", h.text(), fresh.text())
		}
		// A fresh table that adopts what is held is the same to the slot.
		prior := Prior{map[Frontend]PriorTarget{}, map[PoolID][]netip.AddrPort{}}
		for f, target := range h.frontends {
			prior.Frontends[f] = PriorTarget{target.Internal.Pool, target.External.Pool}
		}
		for id, slots := range h.slots {
			prior.Slots[id] = make([]netip.AddrPort, len(slots))
			for i := range prior.Slots[id] {
				prior.Slots[id][i] = slots[uint32(i)]
			}
		}
		third := w.compile()
		third.Adopt(prior)
		adopted := newHeld()
		adopted.apply(t, third.Snapshot())
		if !maps.Equal(adopted.frontends, h.frontends) {
			t.Fatalf("adopted\n%v\nheld\n%v", adopted.frontends, h.frontends)
		}
		for f, target := range h.frontends {
			if !maps.Equal(adopted.slots[target.External.Pool], h.slots[target.External.Pool]) {
				t.Fatalf("%s: adopted other slots", f)
			}
		}
		third.SetService(service4("c"))
		adopted.apply(t, third.Flush())
	})
}
