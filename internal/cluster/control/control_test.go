package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"viaduct.dev/viaduct/internal/cluster/control"
)

// serve answers at a path that is too long for a socket's address.
func serve(t *testing.T, mux *http.ServeMux) *control.Client {
	t.Helper()
	dir := t.TempDir()
	for len(dir) < 150 {
		dir = filepath.Join(dir, "a-long-directory-name")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s.sock")
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return control.NewClient(path)
}

func TestEventsAreFollowedUntilReady(t *testing.T) {
	for name, c := range map[string]struct {
		last control.Event
		want string
	}{
		"ready":            {control.Event{Ready: true}, ""},
		"failed":           {control.Event{Error: "no room"}, "no room"},
		"ended in silence": {control.Event{Step: "two"}, control.ErrEnded.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			mux := http.NewServeMux()
			mux.HandleFunc("GET "+control.PathEvents, func(w http.ResponseWriter, r *http.Request) {
				json.NewEncoder(w).Encode(control.Event{Step: "one"})
				json.NewEncoder(w).Encode(c.last)
			})
			var seen []string
			err := serve(t, mux).Follow(t.Context(), func(e control.Event) { seen = append(seen, e.Step) })
			if fmt.Sprint(err) != c.want && !(err == nil && c.want == "") {
				t.Errorf("%v, want %q", err, c.want)
			}
			if len(seen) == 0 || seen[0] != "one" {
				t.Errorf("saw %q", seen)
			}
		})
	}
}

func TestFailuresKeepTheirWords(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+control.PathPull, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		json.NewEncoder(w).Encode(control.Failure{Error: "no " + r.FormValue("name")})
	})
	err := serve(t, mux).Pull(t.Context(), "a/b:c")
	var f *control.FailureError
	if !errors.As(err, &f) || err.Error() != "no a/b:c" {
		t.Errorf("%v", err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	_, err := control.NewClient(filepath.Join(t.TempDir(), "none")).Status(context.Background())
	if !errors.Is(err, control.ErrNotRunning) {
		t.Errorf("%v", err)
	}
}
