package agent

import (
	"context"
	"encoding/json"
	"maps"
	"net/netip"
	"os"
	"reflect"
	stdruntime "runtime"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"golang.org/x/sys/unix"
)

// A node whose lease is older than leaseDuration is taken for dead.
const (
	leaseRenewal  = 10 * time.Second
	leaseDuration = 40 * time.Second
	// statusRenewal is when the Node's conditions are refreshed though nothing changed.
	statusRenewal = 5 * time.Minute
)

// register makes or finds the Node and waits for its Pod CIDRs.
func (a *agent) register(ctx context.Context) ([]netip.Prefix, error) {
	want := a.nodeObject(false)
	nodes := a.Client.CoreV1().Nodes()
	// The watch begins before the Node is made, so that no change is missed.
	changed := make(chan *corev1.Node, 1)
	handler, err := a.Informers.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { offer(changed, o.(*corev1.Node), a.NodeName) },
		UpdateFunc: func(_, o any) { offer(changed, o.(*corev1.Node), a.NodeName) },
	})
	if err != nil {
		return nil, err
	}
	defer a.Informers.Core().V1().Nodes().Informer().RemoveEventHandler(handler)
	for failures := 0; ; failures++ {
		node, err := nodes.Create(ctx, want, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			node, err = a.updateNode(ctx, want)
		}
		if err == nil {
			a.self = node
			if cidrs := podCIDRs(node); len(cidrs) > 0 {
				return cidrs, nil
			}
			break
		}
		a.Log.Warn("the node could not be registered yet", "node", a.NodeName, "err", err)
		if err := pause(ctx, retryAfter(failures)); err != nil {
			return nil, err
		}
	}
	for {
		select {
		case node := <-changed:
			if cidrs := podCIDRs(node); len(cidrs) > 0 {
				return cidrs, nil
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// offer puts the newest Node of that name into a channel that holds one.
func offer(changed chan *corev1.Node, node *corev1.Node, name string) {
	if node.Name != name {
		return
	}
	select {
	case <-changed:
	default:
	}
	changed <- node
}

// updateNode brings a Node that exists in line with this agent.
func (a *agent) updateNode(ctx context.Context, want *corev1.Node) (*corev1.Node, error) {
	nodes := a.Client.CoreV1().Nodes()
	have, err := nodes.Get(ctx, a.NodeName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	next := have.DeepCopy()
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	maps.Copy(next.Labels, want.Labels)
	if !reflect.DeepEqual(next.Labels, have.Labels) {
		if next, err = nodes.Update(ctx, next, metav1.UpdateOptions{}); err != nil {
			return nil, err
		}
	}
	next.Status.Addresses, next.Status.NodeInfo = want.Status.Addresses, want.Status.NodeInfo
	next.Status.Capacity, next.Status.Allocatable = want.Status.Capacity, want.Status.Allocatable
	next.Status.DaemonEndpoints = want.Status.DaemonEndpoints
	return nodes.UpdateStatus(ctx, next, metav1.UpdateOptions{})
}

func podCIDRs(node *corev1.Node) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range node.Spec.PodCIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// heartbeat says that the node is ready, and goes on saying that it lives.
func (a *agent) heartbeat(ctx context.Context) error {
	failures, leaseFailures := 0, 0
	nextStatus, nextLease := time.Now(), time.Now()
	for {
		if now := time.Now(); !now.Before(nextStatus) {
			if err := a.sayReady(ctx); err != nil {
				a.Log.Warn("the node's status could not be written", "node", a.NodeName, "err", err)
				failures++
				nextStatus = now.Add(retryAfter(failures))
			} else {
				failures, nextStatus = 0, now.Add(statusRenewal)
			}
		}
		if now := time.Now(); !now.Before(nextLease) {
			if err := a.renewLease(ctx); err != nil {
				a.Log.Warn("the node's lease could not be renewed", "node", a.NodeName, "err", err)
				leaseFailures++
				nextLease = now.Add(retryAfter(leaseFailures))
			} else {
				leaseFailures, nextLease = 0, now.Add(leaseRenewal)
			}
		}
		next := nextStatus
		if nextLease.Before(next) {
			next = nextLease
		}
		wait := time.NewTimer(time.Until(next))
		select {
		case <-a.removed:
			nextStatus, nextLease = time.Now(), time.Now()
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

func (a *agent) sayReady(ctx context.Context) error {
	status := a.nodeObject(true).Status
	// The Node may have been removed meanwhile; then it is made anew.
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": status.Conditions}})
	if err != nil {
		return err
	}
	nodes := a.Client.CoreV1().Nodes()
	_, err = nodes.Patch(ctx, a.NodeName, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		// Its Pods go on, so it keeps its ranges.
		again := a.nodeObject(true)
		for _, cidr := range a.cidrs {
			again.Spec.PodCIDRs = append(again.Spec.PodCIDRs, cidr.String())
		}
		if len(again.Spec.PodCIDRs) > 0 {
			again.Spec.PodCIDR = again.Spec.PodCIDRs[0]
		}
		if again, err = nodes.Create(ctx, again, metav1.CreateOptions{}); err == nil {
			a.self = again
		}
	}
	return err
}

func (a *agent) renewLease(ctx context.Context) error {
	// An answer that never comes must not keep the next try from being made.
	ctx, cancel := context.WithTimeout(ctx, leaseRenewal/2)
	defer cancel()
	leases := a.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now, seconds := metav1.NowMicro(), int32(leaseDuration/time.Second)
	lease, err := leases.Get(ctx, a.NodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: a.NodeName, Namespace: corev1.NamespaceNodeLease}}
		lease.OwnerReferences = a.ownedByNode()
		lease.Spec = coordinationv1.LeaseSpec{HolderIdentity: &a.NodeName, LeaseDurationSeconds: &seconds, RenewTime: &now}
		_, err = leases.Create(ctx, lease, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	lease = lease.DeepCopy()
	lease.OwnerReferences = a.ownedByNode() // the Node may be another than the one that it was made for
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &a.NodeName, &seconds, &now
	_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	return err
}

// ownedByNode has an object removed when the Node is.
func (a *agent) ownedByNode() []metav1.OwnerReference {
	if a.self == nil {
		return nil
	}
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: a.NodeName, UID: a.self.UID}}
}

// nodeObject is the Node as this agent sees it.
func (a *agent) nodeObject(ready bool) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: a.NodeName, Labels: map[string]string{
		corev1.LabelHostname: a.NodeName, corev1.LabelOSStable: "linux", corev1.LabelArchStable: stdruntime.GOARCH,
	}}}
	maps.Copy(n.Labels, a.Labels)
	for _, ip := range a.NodeIPs {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: a.NodeName})
	n.Status.Capacity, n.Status.Allocatable = a.capacity.DeepCopy(), a.capacity.DeepCopy()
	n.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(a.Port)
	n.Status.NodeInfo = a.nodeInfo()
	now := metav1.Now()
	condition := func(kind corev1.NodeConditionType, status corev1.ConditionStatus, reason, message string) {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
			Type: kind, Status: status, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now,
		})
	}
	condition(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "kubelet has sufficient memory available")
	condition(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
	condition(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "kubelet has sufficient PID available")
	if ready {
		condition(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status")
	} else {
		condition(corev1.NodeReady, corev1.ConditionFalse, "KubeletNotReady", "the pod network is not set up yet")
	}
	return n
}

func (a *agent) nodeInfo() corev1.NodeSystemInfo {
	read := func(path string) string {
		text, _ := os.ReadFile(path)
		return strings.TrimSpace(string(text))
	}
	info := corev1.NodeSystemInfo{
		MachineID: read("/etc/machine-id"), BootID: read("/proc/sys/kernel/random/boot_id"),
		KernelVersion: read("/proc/sys/kernel/osrelease"), OperatingSystem: "linux", Architecture: stdruntime.GOARCH,
		ContainerRuntimeVersion: "viaduct://" + strings.TrimPrefix(a.Version, "v"), KubeletVersion: a.Version,
	}
	for line := range strings.Lines(read("/etc/os-release")) {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			info.OSImage = strings.Trim(strings.TrimSpace(name), `"`)
		}
	}
	return info
}

// nodeCapacity is what the Config says, and what this machine has.
func (a *agent) nodeCapacity() corev1.ResourceList {
	all := corev1.ResourceList{
		corev1.ResourceCPU:  *resource.NewQuantity(int64(stdruntime.NumCPU()), resource.DecimalSI),
		corev1.ResourcePods: *resource.NewQuantity(110, resource.DecimalSI),
	}
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) == nil {
		all[corev1.ResourceMemory] = *resource.NewQuantity(int64(si.Totalram)*int64(si.Unit), resource.BinarySI)
	}
	var fs unix.Statfs_t
	if unix.Statfs(a.StateDir, &fs) == nil {
		all[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(fs.Blocks)*fs.Bsize, resource.BinarySI)
	}
	maps.Copy(all, a.Capacity)
	return all
}

// followNodes keeps the routes to other nodes' Pods.
func (a *agent) followNodes(ctx context.Context, nodes coreinformers.NodeInformer) error {
	changed := make(chan struct{}, 1)
	notify := func(any) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	handler, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: notify, UpdateFunc: func(_, o any) { notify(o) },
		DeleteFunc: func(o any) {
			if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			if node, ok := o.(*corev1.Node); ok && node.Name == a.NodeName {
				select {
				case a.removed <- struct{}{}:
				default:
				}
			}
			notify(o)
		},
	})
	if err != nil {
		return err
	}
	notify(nil)
	a.wg.Go(func() {
		defer nodes.Informer().RemoveEventHandler(handler)
		var set map[netip.Prefix]netip.Addr
		for failures := 0; ; {
			var retry <-chan time.Time
			via := routesTo(nodes.Informer().GetStore().List(), a.NodeName)
			if set == nil || !maps.Equal(via, set) {
				if err := a.network.SetNodes(via); err != nil {
					a.Log.Warn("a node cannot be routed to yet", "err", err)
					failures++
					retry = time.After(retryAfter(failures))
				} else {
					failures, set = 0, via
				}
			}
			select {
			case <-changed:
			case <-retry:
			case <-ctx.Done():
				return
			}
		}
	})
	return nil
}

// routesTo says by which addresses other nodes' Pods are reached.
func routesTo(nodes []any, self string) map[netip.Prefix]netip.Addr {
	via := map[netip.Prefix]netip.Addr{}
	for _, o := range nodes {
		node := o.(*corev1.Node)
		if node.Name == self {
			continue
		}
		for _, cidr := range podCIDRs(node) {
			for _, address := range node.Status.Addresses {
				ip, err := netip.ParseAddr(address.Address)
				if address.Type == corev1.NodeInternalIP && err == nil && ip.Is4() == cidr.Addr().Is4() {
					via[cidr.Masked()] = ip
					break
				}
			}
		}
	}
	return via
}

// newPodInformer watches the Pods of one node.
func newPodInformer(client kubernetes.Interface, node string) cache.SharedIndexInformer {
	return coreinformers.NewFilteredPodInformer(client, metav1.NamespaceAll, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", node).String()
	})
}

// pause waits, or returns the context's error when it ends first.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
