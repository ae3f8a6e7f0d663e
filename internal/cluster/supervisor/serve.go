package supervisor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"viaduct.dev/viaduct/internal/cluster/control"
)

// Followers of a failed start are given so long to read why.
const lastWords = 2 * time.Second

// serve answers the control socket. The channel is closed when it has ended.
func (s *supervisor) serve(l *net.UnixListener) (<-chan struct{}, func()) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+control.PathEvents, s.follow)
	mux.HandleFunc("GET "+control.PathStatus, func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		ready := s.ready()
		s.mu.Unlock()
		answer(w, control.Status{Ready: ready, Nodes: s.statuses(), Ports: s.ports.list()})
	})
	mux.HandleFunc("POST "+control.PathStop, func(w http.ResponseWriter, _ *http.Request) {
		s.log.Info("asked to stop")
		answer(w, struct{}{})
		s.stop()
	})
	mux.HandleFunc("POST "+control.PathPull, s.pull)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the control socket has ended", "err", err)
		}
	}()
	return done, func() {
		ctx, cancel := context.WithTimeout(context.Background(), lastWords)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			server.Close()
		}
	}
}

func (s *supervisor) follow(w http.ResponseWriter, r *http.Request) {
	s.noticeDead()
	out := json.NewEncoder(w)
	flush := http.NewResponseController(w).Flush
	_ = s.events.follow(r.Context(), func(e control.Event) error {
		if err := out.Encode(e); err != nil {
			return err
		}
		return flush()
	})
}

// pull has an image fetched by a process of its own, because what that takes
// would be many times the size of this one.
func (s *supervisor) pull(w http.ResponseWriter, r *http.Request) {
	name, begin := r.FormValue("name"), time.Now()
	cluster, root := filepath.Base(string(s.cfg.Dir)), filepath.Dir(string(s.cfg.Dir))
	cmd := exec.CommandContext(r.Context(), s.cfg.Program, "--name", cluster, "--state-dir", root, "image", "pull", "--", name)
	cmd.Args[0] = "viaduct"
	said, err := cmd.CombinedOutput()
	if err != nil {
		text := strings.TrimSpace(strings.TrimPrefix(string(said), "viaduct: image pull: "))
		s.log.Warn("pull an image", "image", name, "err", text)
		refuse(w, errors.New(cmp.Or(text, err.Error())))
		return
	}
	s.log.Info("pulled an image", "image", name, "took", time.Since(begin).String())
	answer(w, struct{}{})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the asker may be gone
}

func refuse(w http.ResponseWriter, err error) {
	f := control.Failure{Error: err.Error()}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusInternalServerError)
	_ = json.NewEncoder(w).Encode(f)
}
