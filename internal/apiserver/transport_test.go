package apiserver

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
)

func roundTrip(t *testing.T, ctx context.Context, handler http.HandlerFunc) (*http.Response, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, inProcessHost+"/path?q=1", strings.NewReader("question"))
	must(t, err)
	return (&transport{handler: handler, user: superuser()}).RoundTrip(request)
}

func TestTheHandlerSeesTheRequestAndItsUser(t *testing.T) {
	response, err := roundTrip(t, t.Context(), func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		u := r.Context().Value(inProcess{}).(user.Info)
		w.Header().Set("X-User", u.GetName())
		w.WriteHeader(http.StatusCreated)
		w.Header().Set("X-Late", "ignored")
		_, _ = io.WriteString(w, r.RequestURI+" "+string(body))
	})
	must(t, err)
	body, err := io.ReadAll(response.Body)
	must(t, err)
	if response.StatusCode != http.StatusCreated || string(body) != "/path?q=1 question" {
		t.Errorf("got %s %q", response.Status, body)
	}
	if response.Header.Get("X-User") != "system:apiserver" || response.Header.Get("X-Late") != "" {
		t.Errorf("header is %v", response.Header)
	}
}

func TestTheBodyStreams(t *testing.T) {
	next := make(chan struct{})
	response, err := roundTrip(t, t.Context(), func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-next
		_, _ = io.WriteString(w, "one")
		<-r.Context().Done()
	})
	must(t, err)
	close(next)
	buffer := make([]byte, 3)
	if _, err := io.ReadFull(response.Body, buffer); err != nil || string(buffer) != "one" {
		t.Errorf("got %q %v", buffer, err)
	}
	must(t, response.Body.Close()) // ends the handler's context
}

func TestAHandlerThatSaysNothingAnswersOK(t *testing.T) {
	response, err := roundTrip(t, t.Context(), func(http.ResponseWriter, *http.Request) {})
	must(t, err)
	body, err := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK || len(body) != 0 || err != nil {
		t.Errorf("got %s %q %v", response.Status, body, err)
	}
}

func TestAnAbortedHandlerBreaksTheBody(t *testing.T) {
	response, err := roundTrip(t, t.Context(), func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		panic(http.ErrAbortHandler)
	})
	must(t, err)
	if body, err := io.ReadAll(response.Body); err == nil || string(body) != "half" {
		t.Errorf("got %q %v", body, err)
	}
}

func TestACancelledRequestReturnsAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	entered := make(chan struct{})
	go func() {
		<-entered
		cancel()
	}()
	_, err := roundTrip(t, ctx, func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
