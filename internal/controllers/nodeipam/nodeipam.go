// Package nodeipam gives each node its ranges of Pod addresses, out of the
// cluster's: one of each family, never the same to two nodes.
package nodeipam

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"viaduct.dev/viaduct/internal/controllers/loop"
)

// Range is a cluster's range of one family, cut into nodes' ranges.
type Range struct {
	Cluster netip.Prefix
	// NodeBits is the prefix length of a node's range.
	NodeBits int
}

// Config is what the controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  record.EventRecorder
	Ranges    []Range // the primary family first
	Log       *slog.Logger
}

type controller struct {
	Config
	nodes corelisters.NodeLister
}

// Run gives ranges until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	c := &controller{Config: cfg, nodes: cfg.Informers.Core().V1().Nodes().Lister()}
	l := loop.New("nodeipam", cfg.Log, c.reconcile)
	nodes, err := cfg.Informers.Core().V1().Nodes().Informer().AddEventHandler(l.Handler())
	if err != nil {
		return fmt.Errorf("nodeipam controller: %w", err)
	}
	cfg.Informers.Start(ctx.Done())
	if !cache.WaitFor(ctx, "", nodes.HasSyncedChecker()) {
		return nil
	}
	l.Run(ctx, 1) // one at a time: each gift depends on the one before
	return nil
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	n, err := c.nodes.Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil || len(n.Spec.PodCIDRs) > 0 {
		return err
	}
	// The cache may be behind our own last gift: ask the API what is taken.
	all, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	used := map[netip.Prefix]bool{}
	for _, o := range all.Items {
		if o.Name == n.Name && len(o.Spec.PodCIDRs) > 0 {
			return nil
		}
		for _, text := range o.Spec.PodCIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				used[p.Masked()] = true
			}
		}
	}
	var cidrs []string
	for _, r := range c.Ranges {
		p, ok := nextFree(r, used)
		if !ok {
			c.Recorder.Eventf(n, corev1.EventTypeWarning, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", n.Name)
			return fmt.Errorf("no range of Pod addresses is left in %s for node %s: start the cluster with a larger --cluster-cidr", r.Cluster, n.Name)
		}
		cidrs = append(cidrs, p.String())
	}
	changed := n.DeepCopy()
	changed.Spec.PodCIDRs, changed.Spec.PodCIDR = cidrs, cidrs[0]
	_, err = c.Client.CoreV1().Nodes().Update(ctx, changed, metav1.UpdateOptions{})
	return err
}

// nextFree gives the first range of a cluster's that no node has.
func nextFree(r Range, used map[netip.Prefix]bool) (netip.Prefix, bool) {
	count := uint64(1) << min(r.NodeBits-r.Cluster.Bits(), 32)
	for i := range count {
		p := subrange(r, i)
		if !used[p] {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// subrange is the i-th range of NodeBits within the cluster's.
func subrange(r Range, i uint64) netip.Prefix {
	base := r.Cluster.Masked().Addr()
	if base.Is4() {
		b := base.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(i<<(32-r.NodeBits)))
		return netip.PrefixFrom(netip.AddrFrom4(b), r.NodeBits)
	}
	b := base.As16()
	hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	if r.NodeBits <= 64 {
		hi += i << (64 - r.NodeBits)
	} else {
		lo += i << (128 - r.NodeBits)
	}
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	return netip.PrefixFrom(netip.AddrFrom16(b), r.NodeBits)
}
