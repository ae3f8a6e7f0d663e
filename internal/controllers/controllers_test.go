package controllers

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/yaml"

	"viaduct.dev/viaduct/internal/apiserver"
	"viaduct.dev/viaduct/internal/pki"
)

// cluster is a real API server with all controllers and nodes that pretend.
type cluster struct {
	t      *testing.T
	client kubernetes.Interface
}

func start(t *testing.T, nodes ...string) *cluster {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	dir := t.TempDir()
	cidrs := []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:10:96::/112")}
	ca, err := pki.Open(dir + "/pki")
	must(t, err)
	serving, err := ca.Ensure("apiserver", pki.APIServer(nil, cidrs, "cluster.local"))
	must(t, err)
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.Default()
	}
	server, err := apiserver.New(ctx, apiserver.Config{
		DataDir: dir + "/data", ServingCert: serving.CertPEM, ServingKey: serving.KeyPEM, ClientCA: ca.CertPEM(), ServiceCIDRs: cidrs, Log: log,
	})
	must(t, err)
	ended := make(chan error, 2)
	go func() { ended <- server.Run(ctx) }()
	select {
	case <-server.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(server.ClientConfig())
	must(t, err)
	meta, err := metadata.NewForConfig(server.ClientConfig())
	must(t, err)
	factory := informers.NewSharedInformerFactory(client, 0)
	running := make(chan error, 1)
	go func() {
		running <- Run(ctx, Config{
			Client: client, Metadata: meta, Informers: factory,
			ClusterCIDRs:      []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")},
			NodeCIDRMaskSizes: []int{24, 64},
			LoadBalancerPools: []netip.Prefix{netip.MustParsePrefix("172.20.255.0/30"), netip.MustParsePrefix("fd00:172:20::ff00/120")},
			ClusterDNS:        []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::a")},
			NodeGracePeriod:   time.Second,
			Log:               log,
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-running; err != nil {
			t.Error(err)
		}
		factory.Shutdown()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	c := &cluster{t, client}
	for _, n := range nodes {
		c.node(ctx, n)
	}
	return c
}

// node is a node whose agent runs every Pod at once, and ends every one that is
// deleted.
func (c *cluster) node(ctx context.Context, name string) (die func()) {
	ctx, die = context.WithCancel(ctx)
	_, err := c.client.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}},
		Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "172.20.0.11"}},
		},
	}, metav1.CreateOptions{})
	must(c.t, err)
	lease := &coordinationLease{c.client, name}
	must(c.t, lease.renew(ctx))
	go func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				lease.renew(ctx)
			case <-ctx.Done():
				return
			}
		}
	}()
	var count atomic.Int32
	factory := informers.NewSharedInformerFactoryWithOptions(c.client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = "spec.nodeName=" + name
	}))
	tend := func(o any) {
		p := o.(*corev1.Pod)
		zero := int64(0)
		switch {
		case ctx.Err() != nil:
		case p.DeletionTimestamp != nil:
			c.client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero})
		case p.Status.Phase == corev1.PodPending:
			p = p.DeepCopy()
			p.Status.Phase = corev1.PodRunning
			n := count.Add(1)
			p.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.244.%d.%d", len(name), n)}, {IP: fmt.Sprintf("fd00:10:244:%d::%d", len(name), n)}}
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
			c.client.CoreV1().Pods(p.Namespace).UpdateStatus(ctx, p, metav1.UpdateOptions{})
		}
	}
	factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: tend, UpdateFunc: func(_, o any) { tend(o) }})
	factory.Start(ctx.Done())
	return die
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until check gives no complaint.
func (c *cluster) eventually(what string, check func() string) {
	c.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	complaint := ""
	for {
		if complaint = check(); complaint == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			c.t.Fatalf("%s: %s", what, complaint)
		}
	}
}

func parse[T any](t *testing.T, text string) *T {
	t.Helper()
	o := new(T)
	must(t, yaml.UnmarshalStrict([]byte(text), o))
	return o
}

const web = `
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: "web:1"}]}}
`

func (c *cluster) pods(selector string) []corev1.Pod {
	list, err := c.client.CoreV1().Pods("default").List(c.t.Context(), metav1.ListOptions{LabelSelector: selector})
	must(c.t, err)
	return list.Items
}

func (c *cluster) rolledOut(name string) func() string {
	return func() string {
		d, err := c.client.AppsV1().Deployments("default").Get(c.t.Context(), name, metav1.GetOptions{})
		must(c.t, err)
		n := *d.Spec.Replicas
		if d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedReplicas != n || d.Status.AvailableReplicas != n || d.Status.Replicas != n {
			return fmt.Sprintf("%+v", d.Status)
		}
		return ""
	}
}

func (c *cluster) patch(name, patch string) {
	c.t.Helper()
	_, err := c.client.AppsV1().Deployments("default").Patch(c.t.Context(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	must(c.t, err)
}

func TestDeploymentRollsOutScalesAndIsCollected(t *testing.T) {
	c := start(t, "a", "bb", "ccc")
	apps := c.client.AppsV1()
	_, err := apps.Deployments("default").Create(t.Context(), parse[appsv1.Deployment](t, web), metav1.CreateOptions{})
	must(t, err)
	c.eventually("rolled out", c.rolledOut("web"))
	on := map[string]int{}
	for _, p := range c.pods("app=web") {
		on[p.Spec.NodeName]++
	}
	if len(on) != 3 {
		t.Errorf("three replicas stand on %v", on)
	}

	// Services find them, with both families.
	_, err = c.client.CoreV1().Services("default").Create(t.Context(), parse[corev1.Service](t, `{metadata: {name: web}, spec: {ipFamilyPolicy: RequireDualStack, selector: {app: web}, ports: [{port: 80, targetPort: 5000}]}}`), metav1.CreateOptions{})
	must(t, err)
	ready := func(want int) func() string {
		return func() string {
			list, err := c.client.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=web"})
			must(t, err)
			count := map[discoveryv1.AddressType]int{}
			for _, s := range list.Items {
				for _, e := range s.Endpoints {
					if *e.Conditions.Ready {
						count[s.AddressType]++
					}
				}
			}
			if count["IPv4"] != want || count["IPv6"] != want {
				return fmt.Sprint(count)
			}
			return ""
		}
	}
	c.eventually("slices have 3", ready(3))

	// Never fewer than what maxUnavailable allows while it rolls.
	c.patch("web", `{"spec":{"strategy":{"rollingUpdate":{"maxUnavailable":0,"maxSurge":1}},"template":{"spec":{"containers":[{"name":"c","image":"web:2"}]}}}}`)
	c.eventually("rolled to 2", func() string {
		available := 0
		for _, p := range c.pods("app=web") {
			if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning {
				available++
			}
		}
		if available < 3 {
			t.Errorf("only %d were available", available)
		}
		return c.rolledOut("web")()
	})
	for _, p := range c.pods("app=web") {
		if p.Spec.Containers[0].Image != "web:2" {
			t.Errorf("%s still runs %s", p.Name, p.Spec.Containers[0].Image)
		}
	}
	sets, err := apps.ReplicaSets("default").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	var revisions []string
	for _, s := range sets.Items {
		revisions = append(revisions, s.Annotations["deployment.kubernetes.io/revision"])
	}
	slices.Sort(revisions)
	if strings.Join(revisions, ",") != "1,2" {
		t.Errorf("revisions %v", revisions)
	}

	// Back to the first template: its set is used again, as revision 3.
	c.patch("web", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"web:1"}]}}}}`)
	c.eventually("rolled back", c.rolledOut("web"))
	d, err := apps.Deployments("default").Get(t.Context(), "web", metav1.GetOptions{})
	must(t, err)
	if d.Annotations["deployment.kubernetes.io/revision"] != "3" {
		t.Errorf("revision %v", d.Annotations)
	}

	// A third template, while sets of no size are left of the others.
	c.patch("web", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"web:3"}]}}}}`)
	c.eventually("rolled to 3", c.rolledOut("web"))

	c.patch("web", `{"spec":{"replicas":7}}`)
	c.eventually("scaled up", c.rolledOut("web"))
	c.eventually("slices have 7", ready(7))
	c.patch("web", `{"spec":{"replicas":2}}`)
	c.eventually("scaled down", c.rolledOut("web"))
	c.eventually("slices have 2", ready(2))

	// A Pod that is deleted is replaced.
	c.eventually("two are left", func() string {
		if n := len(c.pods("app=web")); n != 2 {
			return fmt.Sprint(n)
		}
		return ""
	})
	victim := c.pods("app=web")[0]
	must(t, c.client.CoreV1().Pods("default").Delete(t.Context(), victim.Name, metav1.DeleteOptions{}))
	c.eventually("replaced", func() string {
		pods := c.pods("app=web")
		if len(pods) != 2 || slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Name == victim.Name }) {
			return fmt.Sprint(len(pods))
		}
		return ""
	})

	for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationForeground} {
		must(t, apps.Deployments("default").Delete(t.Context(), "web", metav1.DeleteOptions{PropagationPolicy: &policy}))
	}
	c.eventually("collected", func() string {
		sets, err := apps.ReplicaSets("default").List(t.Context(), metav1.ListOptions{})
		must(t, err)
		_, err = apps.Deployments("default").Get(t.Context(), "web", metav1.GetOptions{})
		if n := len(c.pods("app=web")); n+len(sets.Items) > 0 || !apierrors.IsNotFound(err) {
			return fmt.Sprintf("%d pods, %d sets, %v", n, len(sets.Items), err)
		}
		return ""
	})
}

func TestOrphansStay(t *testing.T) {
	c := start(t, "a")
	_, err := c.client.AppsV1().Deployments("default").Create(t.Context(), parse[appsv1.Deployment](t, web), metav1.CreateOptions{})
	must(t, err)
	c.eventually("rolled out", c.rolledOut("web"))
	orphan := metav1.DeletePropagationOrphan
	must(t, c.client.AppsV1().Deployments("default").Delete(t.Context(), "web", metav1.DeleteOptions{PropagationPolicy: &orphan}))
	c.eventually("gone", func() string {
		_, err := c.client.AppsV1().Deployments("default").Get(t.Context(), "web", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Sprint(err)
		}
		return ""
	})
	sets, err := c.client.AppsV1().ReplicaSets("default").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	if len(sets.Items) != 1 || len(sets.Items[0].OwnerReferences) != 0 || len(c.pods("app=web")) != 3 {
		t.Errorf("left: %d sets, %d pods", len(sets.Items), len(c.pods("app=web")))
	}
}

func TestNamespaceIsEmptiedAndGoes(t *testing.T) {
	c := start(t, "a")
	core := c.client.CoreV1()
	_, err := core.Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, metav1.CreateOptions{})
	must(t, err)
	c.eventually("it has its account", func() string {
		_, err := core.ServiceAccounts("shop").Get(t.Context(), "default", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		return ""
	})
	_, err = c.client.AppsV1().Deployments("shop").Create(t.Context(), parse[appsv1.Deployment](t, web), metav1.CreateOptions{})
	must(t, err)
	_, err = core.Services("shop").Create(t.Context(), parse[corev1.Service](t, `{metadata: {name: s}, spec: {type: LoadBalancer, ports: [{port: 80}]}}`), metav1.CreateOptions{})
	must(t, err)
	_, err = core.ConfigMaps("shop").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{})
	must(t, err)
	must(t, core.Namespaces().Delete(t.Context(), "shop", metav1.DeleteOptions{}))
	c.eventually("gone", func() string {
		n, err := core.Namespaces().Get(t.Context(), "shop", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Sprintf("%v %v", n.Status.Phase, err)
		}
		return ""
	})
	if all, _ := core.Pods("shop").List(t.Context(), metav1.ListOptions{}); len(all.Items) > 0 {
		t.Errorf("%d pods are left", len(all.Items))
	}
}

func TestLoadBalancersGetAddressesOfThePool(t *testing.T) {
	c := start(t)
	services := c.client.CoreV1().Services("default")
	ingress := func(name string, want ...string) {
		t.Helper()
		c.eventually(name, func() string {
			s, err := services.Get(t.Context(), name, metav1.GetOptions{})
			must(t, err)
			var got []string
			for _, in := range s.Status.LoadBalancer.Ingress {
				got = append(got, in.IP)
			}
			if strings.Join(got, " ") != strings.Join(want, " ") {
				return fmt.Sprintf("ingress %v, want %v", got, want)
			}
			return ""
		})
	}
	create := func(text string) {
		t.Helper()
		_, err := services.Create(t.Context(), parse[corev1.Service](t, text), metav1.CreateOptions{})
		must(t, err)
	}
	create(`{metadata: {name: asks}, spec: {type: LoadBalancer, loadBalancerIP: 172.20.255.1, ports: [{port: 80}]}}`)
	ingress("asks", "172.20.255.1")
	create(`{metadata: {name: both}, spec: {type: LoadBalancer, ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]}}`)
	ingress("both", "172.20.255.2", "fd00:172:20::ff01")
	create(`{metadata: {name: foreign}, spec: {type: LoadBalancer, loadBalancerClass: example.com/lb, ports: [{port: 80}]}}`)
	// The pool of a /30 is empty now.
	create(`{metadata: {name: waits}, spec: {type: LoadBalancer, ports: [{port: 80}]}}`)
	says := func(name, want string) {
		t.Helper()
		c.eventually(name+" says why", func() string {
			events, err := c.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
			must(t, err)
			var said []string
			for _, e := range events.Items {
				if e.Type == corev1.EventTypeWarning && e.Reason == "AllocationFailed" && strings.Contains(e.Message, want) {
					return ""
				}
				said = append(said, e.Message)
			}
			return fmt.Sprintf("events %q, want %q", said, want)
		})
	}
	says("waits", "every address of the pool is in use")
	create(`{metadata: {name: taken}, spec: {type: LoadBalancer, loadBalancerIP: 172.20.255.2, ports: [{port: 80}]}}`)
	says("taken", "spec.loadBalancerIP 172.20.255.2 is in use by Service default/both")
	create(`{metadata: {name: outside}, spec: {type: LoadBalancer, loadBalancerIP: 192.0.2.1, ports: [{port: 80}]}}`)
	says("outside", "spec.loadBalancerIP 192.0.2.1 is not in the pool [172.20.255.0/30 fd00:172:20::ff00/120]")
	ingress("waits")
	must(t, services.Delete(t.Context(), "asks", metav1.DeleteOptions{}))
	ingress("waits", "172.20.255.1")
	ingress("foreign")
	must(t, services.Delete(t.Context(), "both", metav1.DeleteOptions{}))
	ingress("taken", "172.20.255.2")
	_, err := services.Patch(t.Context(), "waits", types.MergePatchType, []byte(`{"spec":{"type":"ClusterIP"}}`), metav1.PatchOptions{})
	must(t, err)
	ingress("waits")
	c.eventually("its finalizer is gone", func() string {
		s, err := services.Get(t.Context(), "waits", metav1.GetOptions{})
		must(t, err)
		return strings.Join(s.Finalizers, ",")
	})
}

func TestClusterDNSIsAServiceWithEveryReadyNode(t *testing.T) {
	c := start(t, "a", "bb")
	c.eventually("it is there", func() string {
		s, err := c.client.CoreV1().Services("kube-system").Get(t.Context(), "kube-dns", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		slice, err := c.client.DiscoveryV1().EndpointSlices("kube-system").Get(t.Context(), "kube-dns-ipv4", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if strings.Join(s.Spec.ClusterIPs, " ") != "10.96.0.10 fd00:10:96::a" || len(slice.Endpoints) != 2 || !*slice.Endpoints[0].Conditions.Ready {
			return fmt.Sprint(s.Spec.ClusterIPs, slice.Endpoints)
		}
		return ""
	})
}

func TestUnschedulablePodSaysWhyAndIsRetried(t *testing.T) {
	c := start(t, "a")
	pods := c.client.CoreV1().Pods("default")
	_, err := pods.Create(t.Context(), parse[corev1.Pod](t, `{metadata: {name: p}, spec: {nodeSelector: {disk: ssd}, containers: [{name: c, image: i}]}}`), metav1.CreateOptions{})
	must(t, err)
	c.eventually("it says why", func() string {
		p, err := pods.Get(t.Context(), "p", metav1.GetOptions{})
		must(t, err)
		for _, condition := range p.Status.Conditions {
			if condition.Reason == "Unschedulable" && condition.Message == "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector." {
				return ""
			}
		}
		return fmt.Sprint(p.Status.Conditions)
	})
	_, err = c.client.CoreV1().Nodes().Patch(t.Context(), "a", types.MergePatchType, []byte(`{"metadata":{"labels":{"disk":"ssd"}}}`), metav1.PatchOptions{})
	must(t, err)
	c.eventually("it runs", func() string {
		p, err := pods.Get(t.Context(), "p", metav1.GetOptions{})
		must(t, err)
		if p.Status.Phase != corev1.PodRunning {
			return string(p.Status.Phase)
		}
		return ""
	})
}

func TestNodesGetRangesAndLostOnesLeave(t *testing.T) {
	c := start(t, "a")
	die := c.node(t.Context(), "bb")
	ranges := map[string]bool{}
	c.eventually("each has its ranges", func() string {
		nodes, err := c.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		must(t, err)
		clear(ranges)
		for _, n := range nodes.Items {
			for _, r := range n.Spec.PodCIDRs {
				ranges[r] = true
			}
		}
		if len(ranges) != 4 {
			return fmt.Sprint(ranges)
		}
		return ""
	})
	_, err := c.client.AppsV1().Deployments("default").Create(t.Context(), parse[appsv1.Deployment](t, web), metav1.CreateOptions{})
	must(t, err)
	c.eventually("rolled out", c.rolledOut("web"))
	die()
	c.eventually("bb is lost and its Pods are not ready", func() string {
		n, err := c.client.CoreV1().Nodes().Get(t.Context(), "bb", metav1.GetOptions{})
		must(t, err)
		if n.Status.Conditions[0].Status != corev1.ConditionUnknown || len(n.Spec.Taints) != 2 {
			return fmt.Sprint(n.Status.Conditions, n.Spec.Taints)
		}
		for _, p := range c.pods("app=web") {
			for _, condition := range p.Status.Conditions {
				if p.Spec.NodeName == "bb" && condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
					return p.Name + " is still ready"
				}
			}
		}
		return ""
	})
	must(t, c.client.CoreV1().Nodes().Delete(t.Context(), "bb", metav1.DeleteOptions{}))
	c.eventually("its Pods go with it and are replaced", func() string {
		for _, p := range c.pods("app=web") {
			if p.Spec.NodeName != "a" {
				return p.Name + " is on " + p.Spec.NodeName
			}
		}
		return c.rolledOut("web")()
	})
}
