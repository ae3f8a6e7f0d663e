package healthcheck_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"viaduct.dev/viaduct/internal/proxy/healthcheck"
)

// told is what a path answers, such as "200 eligible".
func told(t *testing.T, s http.Handler, path string) string {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	var body struct {
		NodeEligible *bool
		Healthy      bool
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatalf("%s: %v in %q", path, err, w.Body)
	}
	if w.Header().Get("Content-Type") != "application/json" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%s: header %v", path, w.Header())
	}
	out := fmt.Sprint(w.Code)
	if body.NodeEligible != nil && *body.NodeEligible {
		out += " eligible"
	}
	if !body.Healthy {
		out += " stale"
	}
	return out
}

// Row health: `:10256/healthz` and `/livez` (features.md 1.5).
func TestANodeThatGoesIsNotHealthyButAlive(t *testing.T) {
	s := healthcheck.NewServer(healthcheck.ServerConfig{})
	for name, c := range map[string]struct {
		node    *corev1.Node
		healthz string
	}{
		"a node as any other":            {&corev1.Node{}, "200 eligible"},
		"one with another taint":         {&corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "node.kubernetes.io/not-ready"}}}}, "200 eligible"},
		"one that the autoscaler frees":  {&corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "a"}, {Key: "ToBeDeletedByClusterAutoscaler", Value: "1"}}}}, "503"},
		"one that is being deleted":      {&corev1.Node{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{Time: time.Unix(1, 0)}}}, "503"},
		"one that is there no more":      {nil, "503"},
		"one that is as any other again": {&corev1.Node{}, "200 eligible"},
	} {
		t.Run(name, func(t *testing.T) {
			s.SetNode(c.node)
			if got := told(t, s, "/healthz"); got != c.healthz {
				t.Errorf("healthz: %s, want %s", got, c.healthz)
			}
			if got := told(t, s, "/livez"); got != "200" {
				t.Errorf("livez: %s", got)
			}
		})
	}
}

func TestANodeThatNobodyToldOfIsEligible(t *testing.T) {
	if got := told(t, healthcheck.NewServer(healthcheck.ServerConfig{}), "/healthz"); got != "200 eligible" {
		t.Error(got)
	}
}

func TestAChangeThatWaitsTooLongIsSeenByBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := healthcheck.NewServer(healthcheck.ServerConfig{})
		want := func(healthz, livez string) {
			t.Helper()
			if got := told(t, s, "/healthz"); got != healthz {
				t.Errorf("healthz: %s, want %s", got, healthz)
			}
			if got := told(t, s, "/livez"); got != livez {
				t.Errorf("livez: %s, want %s", got, livez)
			}
			if s.Healthy() != (livez == "200") {
				t.Errorf("the Services' ports are told %v", s.Healthy())
			}
		}
		after := func(d time.Duration) { <-time.After(d) }

		s.Queued()
		after(time.Hour)
		want("200 eligible", "200") // it only begins
		s.Programming()
		s.Updated()
		after(time.Hour)
		want("200 eligible", "200") // nothing to do

		s.Queued()
		after(healthcheck.StaleAfter - time.Second)
		want("200 eligible", "200")
		s.Queued() // another one makes the first no younger
		after(time.Second)
		want("503 eligible stale", "503 stale")
		s.Programming()
		after(time.Second)
		want("503 eligible stale", "503 stale") // tried, not done
		s.Updated()
		want("200 eligible", "200")

		s.Queued()
		s.Programming()
		s.Queued() // while the one before is under way
		s.Updated()
		after(healthcheck.StaleAfter)
		want("503 eligible stale", "503 stale")
	})
}

// The text is kube-proxy's, to the byte.
func TestTheProxysAnswersReadAsKubeProxys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at 2000-01-01T00:00:00Z
		var counted []string
		s := healthcheck.NewServer(healthcheck.ServerConfig{Counted: func(path string, status int) { counted = append(counted, fmt.Sprint(path, " ", status)) }})
		read := func(path string) string {
			w := httptest.NewRecorder()
			s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			return strings.ReplaceAll(w.Body.String(), time.Now().Format(time.RFC3339), "NOW")
		}
		want := func(got, want string) {
			t.Helper()
			if got != want {
				t.Errorf("\n%s, want\n%s", got, want)
			}
		}
		want(read("/livez"), `{"lastUpdated":"NOW","currentTime":"NOW","healthy":true}`)
		s.Programming()
		s.Updated()
		before := time.Now().Format(time.RFC3339)
		s.Queued()
		<-time.After(time.Hour)
		want(strings.ReplaceAll(read("/healthz"), before, "THEN"),
			`{"lastUpdated":"THEN","currentTime":"NOW","nodeEligible":true,"healthy":false,"status":{"IPv4":{"lastUpdated":"THEN","healthy":false},"IPv6":{"lastUpdated":"THEN","healthy":false}}}`)
		want(strings.Join(counted, ", "), "livez 200, healthz 503")
	})
}

func TestTheServerWaitsForItsAddress(t *testing.T) {
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := first.Addr().String()
	said := make(chan string, 1)
	s := healthcheck.NewServer(healthcheck.ServerConfig{Address: address, Log: slog.New(slog.NewTextHandler(lines(said), nil))})
	done := make(chan error, 1)
	ctx, cancel := contextOf(t)
	go func() { done <- s.Run(ctx) }()
	select {
	case line := <-said:
		if !strings.Contains(line, "address already in use") {
			t.Error(line)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("nobody was told")
	}
	first.Close()
	await(t, func() bool {
		resp, err := http.Get("http://" + address + "/livez")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode == http.StatusOK && strings.Contains(string(body), `"healthy":true`)
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
