package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// place is a node with what stands on it.
type place struct {
	node *corev1.Node
	pods []*corev1.Pod
}

// choose gives the node for a Pod, or why there is none, in the words of the
// upstream scheduler.
func choose(p *corev1.Pod, places []place) (string, error) {
	reasons := map[string]int{}
	var fit []place
	for _, at := range places {
		if reason := refuses(p, at, places); reason != "" {
			reasons[reason]++
		} else {
			fit = append(fit, at)
		}
	}
	if len(fit) == 0 {
		return "", unschedulable(len(places), reasons)
	}
	best := slices.MinFunc(fit, func(a, b place) int {
		return cmp.Or(
			cmp.Compare(preferNot(p, a.node), preferNot(p, b.node)),
			cmp.Compare(siblings(p, a.pods), siblings(p, b.pods)),
			-cmp.Compare(preference(p, a.node), preference(p, b.node)),
			cmp.Compare(fullness(a), fullness(b)),
			cmp.Compare(len(a.pods), len(b.pods)),
			cmp.Compare(a.node.Name, b.node.Name),
		)
	})
	return best.node.Name, nil
}

func unschedulable(nodes int, reasons map[string]int) error {
	if nodes == 0 {
		return fmt.Errorf("no nodes available to schedule pods")
	}
	var all []string
	for reason, n := range reasons {
		all = append(all, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(all)
	return fmt.Errorf("0/%d nodes are available: %s.", nodes, strings.Join(all, ", "))
}

// refuses says why a node may not take a Pod, or nothing.
func refuses(p *corev1.Pod, at place, all []place) string {
	n := at.node
	if n.Spec.Unschedulable && !corev1helpers.TolerationsTolerateTaint(klog.Background(), p.Spec.Tolerations, &corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}, false) {
		return "node(s) were unschedulable"
	}
	for i := range n.Spec.Taints {
		t := &n.Spec.Taints[i]
		if t.Effect != corev1.TaintEffectPreferNoSchedule && !corev1helpers.TolerationsTolerateTaint(klog.Background(), p.Spec.Tolerations, t, false) {
			return fmt.Sprintf("node(s) had untolerated taint {%s: %s}", t.Key, t.Value)
		}
	}
	if !ready(n) {
		return "node(s) were not ready"
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(p).Match(n); err != nil || !ok {
		return "node(s) didn't match Pod's node affinity/selector"
	}
	if clash(p, at.pods) {
		return "node(s) didn't have free ports for the requested pod ports"
	}
	if reason := lacks(p, at); reason != "" {
		return reason
	}
	return podAffinity(p, at, all)
}

func ready(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func clash(p *corev1.Pod, others []*corev1.Pod) bool {
	type port struct {
		number   int32
		protocol corev1.Protocol
	}
	used := map[port][]string{}
	each := func(p *corev1.Pod, fn func(port, string)) {
		for _, c := range p.Spec.Containers {
			for _, cp := range c.Ports {
				if cp.HostPort != 0 {
					fn(port{cp.HostPort, cp.Protocol}, cp.HostIP)
				}
			}
		}
	}
	for _, o := range others {
		each(o, func(k port, ip string) { used[k] = append(used[k], ip) })
	}
	anywhere := func(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
	found := false
	each(p, func(k port, ip string) {
		for _, other := range used[k] {
			found = found || ip == other || anywhere(ip) || anywhere(other)
		}
	})
	return found
}

// requests is what a Pod asks for of a resource: the sum of its containers, or
// its largest init container where that is more.
func requests(p *corev1.Pod, name corev1.ResourceName) *resource.Quantity {
	total := resource.Quantity{}
	for _, c := range p.Spec.Containers {
		total.Add(c.Resources.Requests[name])
	}
	for _, c := range p.Spec.InitContainers {
		q := c.Resources.Requests[name]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			total.Add(q)
		} else if q.Cmp(total) > 0 {
			total = q
		}
	}
	return &total
}

func lacks(p *corev1.Pod, at place) string {
	allocatable := at.node.Status.Allocatable
	if most, ok := allocatable[corev1.ResourcePods]; ok && int64(len(at.pods)) >= most.Value() {
		return "Too many pods"
	}
	asked := map[corev1.ResourceName]bool{}
	for _, c := range append(append([]corev1.Container(nil), p.Spec.InitContainers...), p.Spec.Containers...) {
		for name := range c.Resources.Requests {
			asked[name] = true
		}
	}
	names := make([]corev1.ResourceName, 0, len(asked))
	for name := range asked {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		want := requests(p, name)
		if want.IsZero() {
			continue
		}
		for _, o := range at.pods {
			want.Add(*requests(o, name))
		}
		have := allocatable[name]
		if want.Cmp(have) > 0 {
			return "Insufficient " + string(name)
		}
	}
	return ""
}

// podAffinity checks the terms that a Pod requires of the Pods around it, and
// those that they require of it.
func podAffinity(p *corev1.Pod, at place, all []place) string {
	a := p.Spec.Affinity
	if a != nil && a.PodAffinity != nil {
		for _, term := range a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			// The first of a group that wants to be together may go anywhere.
			if !near(p, term, at, all) && !(termSelects(p, term, p) && !anywhere(p, term, all)) {
				return "node(s) didn't match pod affinity rules"
			}
		}
	}
	if a != nil && a.PodAntiAffinity != nil {
		for _, term := range a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			if near(p, term, at, all) {
				return "node(s) didn't match pod anti-affinity rules"
			}
		}
	}
	for _, other := range all {
		for _, o := range other.pods {
			if o.Spec.Affinity == nil || o.Spec.Affinity.PodAntiAffinity == nil {
				continue
			}
			for _, term := range o.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
				if termSelects(o, term, p) && sameDomain(other.node, at.node, term.TopologyKey) {
					return "node(s) didn't satisfy existing pods anti-affinity rules"
				}
			}
		}
	}
	return ""
}

func near(p *corev1.Pod, term corev1.PodAffinityTerm, at place, all []place) bool {
	for _, other := range all {
		if !sameDomain(other.node, at.node, term.TopologyKey) {
			continue
		}
		for _, o := range other.pods {
			if termSelects(p, term, o) {
				return true
			}
		}
	}
	return false
}

func anywhere(p *corev1.Pod, term corev1.PodAffinityTerm, all []place) bool {
	for _, other := range all {
		for _, o := range other.pods {
			if termSelects(p, term, o) {
				return true
			}
		}
	}
	return false
}

// termSelects says whether a term of owner's selects a Pod.
func termSelects(owner *corev1.Pod, term corev1.PodAffinityTerm, p *corev1.Pod) bool {
	if len(term.Namespaces) == 0 && term.NamespaceSelector == nil && owner.Namespace != p.Namespace {
		return false
	}
	if len(term.Namespaces) > 0 && !slices.Contains(term.Namespaces, p.Namespace) {
		return false
	}
	s, err := metav1.LabelSelectorAsSelector(term.LabelSelector)
	return err == nil && s.Matches(labels.Set(p.Labels))
}

func sameDomain(a, b *corev1.Node, key string) bool {
	v, ok := a.Labels[key]
	w, ok2 := b.Labels[key]
	return ok && ok2 && v == w
}

// preferNot counts the taints that only ask to be avoided.
func preferNot(p *corev1.Pod, n *corev1.Node) (count int) {
	for i := range n.Spec.Taints {
		if t := &n.Spec.Taints[i]; t.Effect == corev1.TaintEffectPreferNoSchedule && !corev1helpers.TolerationsTolerateTaint(klog.Background(), p.Spec.Tolerations, t, false) {
			count++
		}
	}
	return count
}

// preference is the weight of the preferred terms that a node matches.
func preference(p *corev1.Pod, n *corev1.Node) int64 {
	if p.Spec.Affinity == nil || p.Spec.Affinity.NodeAffinity == nil {
		return 0
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(p.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil || terms == nil {
		return 0
	}
	return terms.Score(n)
}

// siblings counts the Pods of the same workload: of the same controller, or,
// for those that have none, with the same labels.
func siblings(p *corev1.Pod, others []*corev1.Pod) (count int) {
	var owner types.UID
	if ref := metav1.GetControllerOf(p); ref != nil {
		owner = ref.UID
	}
	for _, o := range others {
		if o.DeletionTimestamp != nil || o.Namespace != p.Namespace {
			continue
		}
		ref := metav1.GetControllerOf(o)
		switch {
		case owner != "" && ref != nil && ref.UID == owner:
			count++
		case owner == "" && ref == nil && len(p.Labels) > 0 && labels.Equals(o.Labels, p.Labels):
			count++
		}
	}
	return count
}

// fullness is the larger part of CPU and memory that is asked for, in percent.
func fullness(at place) int64 {
	var most int64
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		have := at.node.Status.Allocatable[name]
		if have.IsZero() {
			continue
		}
		total := resource.Quantity{}
		for _, p := range at.pods {
			total.Add(*requests(p, name))
		}
		most = max(most, total.MilliValue()*100/have.MilliValue())
	}
	return most
}
