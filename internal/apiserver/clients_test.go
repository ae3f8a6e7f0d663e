package apiserver

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/utils/ptr"
)

const deadline = 10 * time.Second

// overTLS is a client of the kind that other machines have.
func overTLS(t *testing.T, c *cluster) *rest.Config {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig(c.kubeconfig)
	must(t, err)
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.QPS = -1
	return config
}

// transports are the two ways to the server; what works must work by both.
func transports(t *testing.T, c *cluster) map[string]*rest.Config {
	return map[string]*rest.Config{"over TLS": overTLS(t, c), "in process": c.ClientConfig()}
}

func clientOf(t *testing.T, config *rest.Config) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	must(t, err)
	return client
}

func newNamespace(t *testing.T, c *cluster) string {
	t.Helper()
	n, err := c.client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	must(t, err)
	return n.Name
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"value": value}}
}

func TestInformersSeeEveryChange(t *testing.T) {
	t.Parallel()
	c := start(t, t.TempDir())
	for name, config := range transports(t, c) {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			client, namespace := clientOf(t, config), newNamespace(t, c)
			maps := client.CoreV1().ConfigMaps(namespace)
			_, err := maps.Create(ctx, configMap("before", "1"), metav1.CreateOptions{})
			must(t, err)

			events := make(chan string, 16)
			factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
			informer := factory.Core().V1().ConfigMaps().Informer()
			say := func(verb string, object any) {
				m := object.(*corev1.ConfigMap)
				events <- verb + " " + m.Name + "=" + m.Data["value"]
			}
			_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
				AddFunc:    func(o any) { say("add", o) },
				UpdateFunc: func(_, o any) { say("update", o) },
				DeleteFunc: func(o any) { say("delete", o) },
			})
			must(t, err)
			factory.Start(ctx.Done())
			defer factory.Shutdown()
			defer cancel()
			for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
				if !synced {
					t.Fatalf("%v did not sync", kind)
				}
			}
			_, err = maps.Create(ctx, configMap("after", "1"), metav1.CreateOptions{})
			must(t, err)
			_, err = maps.Update(ctx, configMap("after", "2"), metav1.UpdateOptions{})
			must(t, err)
			must(t, maps.Delete(ctx, "before", metav1.DeleteOptions{}))
			for _, want := range []string{"add before=1", "add after=1", "update after=2", "delete before=1"} {
				select {
				case got := <-events:
					if got != want {
						t.Errorf("got %q, want %q", got, want)
					}
				case <-ctx.Done():
					t.Fatalf("no %q", want)
				}
			}
		})
	}
}

func TestWatchListStreamsTheInitialObjectsAndABookmark(t *testing.T) {
	t.Parallel()
	c := start(t, t.TempDir())
	about := corev1.ObjectReference{Kind: "Namespace", Name: "default"}
	_, err := c.client.CoreV1().Events("default").Create(t.Context(),
		&corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "seen"}, InvolvedObject: about}, metav1.CreateOptions{})
	must(t, err)
	options := metav1.ListOptions{
		SendInitialEvents:    ptr.To(true),
		AllowWatchBookmarks:  true,
		ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	}
	for name, config := range transports(t, c) {
		client := clientOf(t, config)
		for kind, open := range map[string]func(context.Context, metav1.ListOptions) (watch.Interface, error){
			"namespaces, cached": client.CoreV1().Namespaces().Watch,
			"events, not cached": client.CoreV1().Events("").Watch,
		} {
			t.Run(name+", "+kind, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), deadline)
				defer cancel()
				w, err := open(ctx, options)
				must(t, err)
				defer w.Stop()
				added := 0
				for event := range w.ResultChan() {
					switch event.Type {
					case watch.Added:
						added++
					case watch.Bookmark:
						object, err := meta.Accessor(event.Object)
						must(t, err)
						if object.GetAnnotations()[metav1.InitialEventsAnnotationKey] != "true" {
							t.Fatal("a bookmark without the annotation of the end")
						}
						if added == 0 {
							t.Error("no object before the bookmark")
						}
						return
					default:
						t.Fatalf("got %v", event)
					}
				}
				t.Error("the watch ended before the bookmark")
			})
		}
	}
}

func TestAWatchThatAsksForNoBookmarksGetsNone(t *testing.T) {
	t.Parallel()
	c := start(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	w, err := c.client.CoreV1().Events("default").Watch(ctx, metav1.ListOptions{})
	must(t, err)
	defer w.Stop()
	// A consistent list asks etcd how far the watch of its own kind has come.
	for i := range 5 {
		_, err = c.client.CoreV1().ConfigMaps("default").Create(ctx, configMap(fmt.Sprint("m", i), "1"), metav1.CreateOptions{})
		must(t, err)
		_, err = c.client.CoreV1().Secrets("").List(ctx, metav1.ListOptions{})
		must(t, err)
	}
	event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "seen"}, InvolvedObject: corev1.ObjectReference{Kind: "Namespace", Name: "default"}}
	_, err = c.client.CoreV1().Events("default").Create(ctx, event, metav1.CreateOptions{})
	must(t, err)
	if got := <-w.ResultChan(); got.Type != watch.Added {
		t.Errorf("got %v before the event", got.Type)
	}
}

func TestOneOfManyCandidatesLeads(t *testing.T) {
	t.Parallel()
	c := start(t, t.TempDir())
	client := clientOf(t, overTLS(t, c))
	ctx, cancel := context.WithTimeout(t.Context(), 3*deadline)
	defer cancel()
	leads := make(chan string, 3)
	stop := map[string]context.CancelFunc{}
	var running sync.WaitGroup
	for i := range 3 {
		id := fmt.Sprintf("candidate-%d", i)
		lock, err := resourcelock.New(resourcelock.LeasesResourceLock, "kube-system", "test", client.CoreV1(), client.CoordinationV1(),
			resourcelock.ResourceLockConfig{Identity: id})
		must(t, err)
		one, end := context.WithCancel(ctx)
		stop[id] = end
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: lock, LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 50 * time.Millisecond,
			ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { leads <- id },
				OnStoppedLeading: func() {},
			},
		})
		must(t, err)
		running.Go(func() { elector.Run(one) })
	}
	first := receive(t, ctx, leads)
	stop[first]() // releases the lease
	second := receive(t, ctx, leads)
	if second == first {
		t.Errorf("%s leads again after it stopped", first)
	}
	cancel()
	running.Wait()
	if len(leads) > 1 {
		t.Errorf("%d more leaders than expected", len(leads))
	}
}

func receive(t *testing.T, ctx context.Context, from <-chan string) string {
	t.Helper()
	select {
	case s := <-from:
		return s
	case <-ctx.Done():
		t.Fatal("nobody leads")
		return ""
	}
}

func TestStrangersMayOnlyAskHowTheServerIs(t *testing.T) {
	t.Parallel()
	c := start(t, t.TempDir())
	config := overTLS(t, c)
	config.CertData, config.KeyData = nil, nil
	client, err := rest.HTTPClientFor(config)
	must(t, err)
	for path, want := range map[string]int{
		"/healthz": 200, "/livez": 200, "/readyz": 200, "/version": 200,
		"/api/v1/namespaces": 401, "/metrics": 401, "/healthz/etcd": 401, "/": 401,
	} {
		response, err := client.Get(config.Host + path)
		must(t, err)
		body, err := io.ReadAll(response.Body)
		must(t, err)
		must(t, response.Body.Close())
		if response.StatusCode != want {
			t.Errorf("%s: %s %s, want %d", path, response.Status, strings.TrimSpace(string(body)), want)
		}
	}
	response, err := client.Post(config.Host+"/version", "text/plain", http.NoBody)
	must(t, err)
	must(t, response.Body.Close())
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("a stranger's POST gave %s", response.Status)
	}
}

func TestAnInProcessWatchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	c := start(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	w, err := c.client.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{})
	must(t, err)
	cancel()
	select {
	case event, open := <-w.ResultChan():
		if open && event.Type != watch.Error {
			t.Errorf("got %v", event)
		}
	case <-time.After(deadline):
		t.Error("the watch goes on")
	}
	if _, err := c.client.CoreV1().ConfigMaps("default").Get(ctx, "x", metav1.GetOptions{}); err == nil || apierrors.IsNotFound(err) {
		t.Errorf("a request with a cancelled context gave %v", err)
	}
}
