package announce

import (
	"hash/fnv"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
)

// Owner chooses the node that answers for an address, or "" where there is none
// to choose from. When a node comes or goes, only the addresses move that it
// gains or loses.
func Owner(addr netip.Addr, nodes []string) string {
	best, bestScore := "", uint64(0)
	for _, n := range nodes {
		h := fnv.New64a()
		b := addr.As16()
		h.Write(b[:])
		h.Write([]byte(n))
		score := mix(h.Sum64())
		if best == "" || score > bestScore || score == bestScore && n < best {
			best, bestScore = n, score
		}
	}
	return best
}

// mix spreads the last bytes of a hash over all of it (the finalizer of
// MurmurHash3): FNV alone lets similar names win together.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// excluded is upstream's label for nodes that load balancers leave out.
const excluded = "node.kubernetes.io/exclude-from-external-load-balancers"

// Candidates are the nodes that may answer for a Service's addresses: those that
// are ready, and, where the external traffic policy is Local, those of them that
// have a ready endpoint, if any has.
func Candidates(s *corev1.Service, slices_ []*discoveryv1.EndpointSlice, nodes []*corev1.Node) []string {
	var ready []string
	for _, n := range nodes {
		if _, out := n.Labels[excluded]; !out && isReady(n) {
			ready = append(ready, n.Name)
		}
	}
	slices.Sort(ready)
	if s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return ready
	}
	has := map[string]bool{}
	for _, slice := range slices_ {
		for _, e := range slice.Endpoints {
			if e.NodeName != nil && ptr.Deref(e.Conditions.Ready, true) {
				has[*e.NodeName] = true
			}
		}
	}
	local := slices.DeleteFunc(slices.Clone(ready), func(n string) bool { return !has[n] })
	if len(local) == 0 {
		return ready
	}
	return local
}

func isReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
