package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

func kubeconfigFile(t *testing.T, b *box) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte(b.viaduct(t, "kubeconfig")), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func client(t *testing.T, b *box) (kubernetes.Interface, *rest.Config) {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfigFile(t, b))
	if err != nil {
		t.Fatal(err)
	}
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c, cfg
}

func TestTheHostsOwnKubectlWorks(t *testing.T) {
	b := cluster(t)
	if _, err := exec.LookPath("kubectl"); err != nil {
		t.Skip("the host has no kubectl of its own")
	}
	kubectl := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "kubectl", args...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfigFile(t, b))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	if out := kubectl("get", "nodes"); strings.Count(out, " Ready ") != 3 {
		t.Errorf("three nodes are ready:\n%s", out)
	}
	if out := kubectl("get", "svc", "-o", "wide"); !strings.HasPrefix(strings.Join(strings.Fields(out), " "), "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR kubernetes ClusterIP 10.96.0.1 <none> 443/TCP") {
		t.Errorf("get svc -o wide:\n%s", out)
	}
	if out := kubectl("explain", "service.spec.externalTrafficPolicy"); !strings.Contains(out, "externalTrafficPolicy") || len(out) < 300 {
		t.Errorf("explain:\n%s", out)
	}
	if out := kubectl("api-resources"); !strings.Contains(out, "endpointslices") {
		t.Errorf("api-resources:\n%s", out)
	}
}

func TestInformersSeeWhatHappens(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	c, _ := client(t, b)
	seen := make(chan string, 100)
	factory := informers.NewSharedInformerFactoryWithOptions(c, 0, informers.WithNamespace(ns))
	inf := factory.Core().V1().ConfigMaps().Informer()
	inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { seen <- "add " + o.(*corev1.ConfigMap).Name },
		UpdateFunc: func(_, o any) { seen <- "update " + o.(*corev1.ConfigMap).Data["k"] },
		DeleteFunc: func(o any) { seen <- "delete" },
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), inf.HasSynced) {
		t.Fatal("the informer did not sync")
	}
	cm, err := c.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cm.Data = map[string]string{"k": "v"}
	if _, err := c.CoreV1().ConfigMaps(ns).Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.CoreV1().ConfigMaps(ns).Delete(ctx, "x", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"add x", "update v", "delete"} {
		for got := ""; got != want; {
			select {
			case got = <-seen:
			case <-ctx.Done():
				t.Fatalf("never saw %q", want)
			}
		}
	}
}

func TestLeaderElectionHandsOver(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	c, _ := client(t, b)
	leads := make(chan string, 10)
	elect := func(ctx context.Context, id string) {
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{
				LeaseMeta:  metav1.ObjectMeta{Namespace: ns, Name: "lead"},
				Client:     c.CoordinationV1(),
				LockConfig: resourcelock.ResourceLockConfig{Identity: id},
			},
			LeaseDuration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 200 * time.Millisecond,
			ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { leads <- id },
				OnStoppedLeading: func() {},
			},
		})
	}
	next := func() string {
		select {
		case id := <-leads:
			return id
		case <-time.After(15 * time.Second):
			t.Fatal("nobody leads")
			return ""
		}
	}
	first, stop := context.WithCancel(t.Context())
	done := make(chan struct{}, 2)
	go func() { elect(first, "one"); done <- struct{}{} }()
	if id := next(); id != "one" {
		t.Fatalf("%s leads", id)
	}
	second, stop2 := context.WithCancel(t.Context())
	go func() { elect(second, "two"); done <- struct{}{} }()
	stop()
	if id := next(); id != "two" {
		t.Fatalf("%s leads", id)
	}
	stop2()
	<-done
	<-done
}

func TestServerSideApplyFindsConflicts(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	manifest := func(v string) string {
		return fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {k: %s}}`, v)
	}
	apply := func(v string, flags ...string) (string, error) {
		return b.run(t.Context(), manifest(v), append([]string{"kubectl", "apply", "--server-side", "-n", ns, "-f", "-"}, flags...)...)
	}
	if out, err := apply("a", "--field-manager=one"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := apply("b", "--field-manager=two"); err == nil || !strings.Contains(out, "conflict") {
		t.Errorf("no conflict: %v\n%s", err, out)
	}
	if out, err := apply("b", "--field-manager=two", "--force-conflicts"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
