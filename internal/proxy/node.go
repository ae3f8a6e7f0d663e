package proxy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"viaduct.dev/viaduct/internal/proxy/nftables"
)

// LocalMode is by what packets of this node's Pods are known.
type LocalMode string

// The modes of --detect-local-mode, called as there.
const (
	ClusterCIDR         LocalMode = "ClusterCIDR"
	NodeCIDR            LocalMode = "NodeCIDR"
	BridgeInterface     LocalMode = "BridgeInterface"
	InterfaceNamePrefix LocalMode = "InterfaceNamePrefix"
)

// localTraffic is how the rules know packets of this node's Pods.
func (c *Config) localTraffic() nftables.LocalTraffic {
	switch c.LocalMode {
	case BridgeInterface:
		return nftables.LocalTraffic{Bridge: c.LocalInterface}
	case InterfaceNamePrefix:
		return nftables.LocalTraffic{InterfacePrefix: c.LocalInterface}
	}
	return nftables.LocalTraffic{}
}

// self is what is known of this node. Everything of it may change while the
// proxy runs; none of it needs to be known for it to start.
type self struct {
	object       *corev1.Node              // what counts of it; nil: there is none, or nobody knows yet
	serviceCIDRs map[string][]netip.Prefix // of the API's ServiceCIDRs, by name
	links        []netip.Addr              // what the interfaces have
	outbound     []netip.Addr              // what a node without an object is known by
}

// addresses are the node's own, one of each family, the primary one first.
func (s *self) addresses(cfg *Config) []netip.Addr {
	var out []netip.Addr
	add := func(a netip.Addr) {
		if a = a.Unmap(); a.IsValid() && !slices.ContainsFunc(out, func(b netip.Addr) bool { return b.Is4() == a.Is4() }) {
			out = append(out, a)
		}
	}
	if !cfg.BindAddress.IsUnspecified() {
		add(cfg.BindAddress)
	}
	for _, a := range cfg.NodeIPs {
		add(a)
	}
	if s.object != nil {
		for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
			for _, one := range s.object.Status.Addresses {
				if a, err := netip.ParseAddr(one.Address); err == nil && one.Type == kind {
					add(a)
				}
			}
		}
	}
	if len(out) == 0 {
		for _, a := range s.outbound {
			add(a)
		}
	}
	return out
}

// node is what the data plane is to know of this node now.
func (s *self) node(cfg *Config) nftables.Node {
	n := nftables.Node{Masquerade: cfg.Masquerade, ServiceCIDRs: cfg.ServiceCIDRs}
	n.NodePortAddresses = cfg.NodePortAddresses.of(s.addresses(cfg), s.links)
	switch cfg.LocalMode {
	case ClusterCIDR, "":
		n.LocalCIDRs = cfg.ClusterCIDRs
	case NodeCIDR:
		if s.object != nil {
			n.LocalCIDRs = podCIDRs(s.object)
		}
	}
	if len(n.ServiceCIDRs) == 0 {
		for _, ranges := range s.serviceCIDRs {
			n.ServiceCIDRs = append(n.ServiceCIDRs, ranges...)
		}
		n.ServiceCIDRs = disjoint(n.ServiceCIDRs)
	}
	return n
}

// podCIDRs are the ranges that a Node's Pods have their addresses from.
func podCIDRs(n *corev1.Node) []netip.Prefix {
	texts := n.Spec.PodCIDRs
	if len(texts) == 0 && n.Spec.PodCIDR != "" {
		texts = []string{n.Spec.PodCIDR}
	}
	return ranges(texts)
}

func ranges(texts []string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range texts {
		if r, err := netip.ParsePrefix(t); err == nil {
			out = append(out, r.Masked())
		}
	}
	return out
}

// disjoint leaves out ranges that another one holds, and sorts: ServiceCIDRs may
// overlap.
func disjoint(all []netip.Prefix) []netip.Prefix {
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var out []netip.Prefix
	for _, r := range all {
		if n := len(out); n == 0 || !out[n-1].Overlaps(r) {
			out = append(out, r)
		}
	}
	return out
}

func sameNode(a, b nftables.Node) bool {
	return slices.Equal(a.NodePortAddresses, b.NodePortAddresses) && slices.Equal(a.Masquerade, b.Masquerade) &&
		slices.Equal(a.LocalCIDRs, b.LocalCIDRs) && slices.Equal(a.ServiceCIDRs, b.ServiceCIDRs)
}

// SetNode tells of this node's object. Those of other nodes are nothing to us.
func (p *Proxy) SetNode(n *corev1.Node) {
	if n.Name != p.cfg.NodeName {
		return
	}
	p.cfg.Health.SetNode(n)
	p.mu.Lock()
	p.self.object = &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, Labels: map[string]string{corev1.LabelTopologyZone: n.Labels[corev1.LabelTopologyZone]}},
		Spec:       corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR, PodCIDRs: n.Spec.PodCIDRs},
		Status:     corev1.NodeStatus{Addresses: n.Status.Addresses},
	}
	if zone := n.Labels[corev1.LabelTopologyZone]; p.table.Zone() != zone {
		p.table.SetZone(zone)
	}
	p.selfIs = false
	p.mu.Unlock()
	p.poke()
}

// DeleteNode tells that this node's object is gone. What it said holds on until
// there is another: machines do not move because somebody deletes an object.
func (p *Proxy) DeleteNode(name string) {
	if name == p.cfg.NodeName {
		p.cfg.Health.SetNode(nil)
	}
}

// SetServiceCIDR tells of a range of cluster IPs.
func (p *Proxy) SetServiceCIDR(c *networkingv1.ServiceCIDR) {
	p.mu.Lock()
	p.self.serviceCIDRs[c.Name] = ranges(c.Spec.CIDRs)
	p.selfIs = false
	p.mu.Unlock()
	p.poke()
}

// DeleteServiceCIDR tells that a range of cluster IPs is gone.
func (p *Proxy) DeleteServiceCIDR(name string) {
	p.mu.Lock()
	delete(p.self.serviceCIDRs, name)
	p.selfIs = false
	p.mu.Unlock()
	p.poke()
}
