package healthcheck

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"viaduct.dev/viaduct/internal/proxy/httpserve"
)

// StaleAfter is how old a change may become before a proxy that has not
// programmed it counts as unhealthy: kube-proxy's, by its default syncPeriod.
const StaleAfter = time.Minute

// toBeDeleted is the taint by which the cluster autoscaler announces that a node
// is about to go.
const toBeDeleted = "ToBeDeletedByClusterAutoscaler"

// ServerConfig is what a Server needs to know.
type ServerConfig struct {
	// Address is where to listen, such as 0.0.0.0:10256, which is both families.
	Address string
	// StaleAfter bounds the age of a change; zero means the package's.
	StaleAfter time.Duration
	// Families are those that the node has; none means both.
	Families []corev1.IPFamily
	// Counted is told the status of each answer to "healthz" and "livez"; nil
	// counts nothing.
	Counted func(path string, status int)
	Log     *slog.Logger
}

// Server answers /healthz and /livez about the proxy. Both say no while a change
// has waited for too long; /healthz also while the node is going away. Its
// methods may be called from everywhere.
type Server struct {
	cfg ServerConfig

	mu      sync.Mutex // guards what follows
	queued  time.Time  // the oldest change that nobody has taken up; zero if there is none
	taken   time.Time  // the oldest one that is being programmed
	updated time.Time  // when everything was programmed last; zero if never
	leaving bool       // this node is
}

// NewServer returns one that is healthy until told otherwise.
func NewServer(cfg ServerConfig) *Server {
	if cfg.StaleAfter == 0 {
		cfg.StaleAfter = StaleAfter
	}
	if len(cfg.Families) == 0 {
		cfg.Families = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	}
	if cfg.Counted == nil {
		cfg.Counted = func(string, int) {}
	}
	return &Server{cfg: cfg}
}

// Queued says that there is something to program.
func (s *Server) Queued() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queued.IsZero() {
		s.queued = time.Now()
	}
}

// Programming says that what was queued until now is being programmed. If that
// fails, nothing need be said: the change goes on growing old.
func (s *Server) Programming() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken.IsZero() {
		s.taken = s.queued
	}
	s.queued = time.Time{}
}

// Updated says that what was being programmed is in the kernel.
func (s *Server) Updated() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken, s.updated = time.Time{}, time.Now()
}

// SetNode tells what is known of this node; nil means that it was deleted. A
// node that nobody has told of yet is eligible: one that boots while the API
// server is away serves, and balancers shall know. (kube-proxy does not start
// there.)
func (s *Server) SetNode(n *corev1.Node) {
	leaving := n == nil || n.DeletionTimestamp != nil
	if n != nil {
		for _, t := range n.Spec.Taints {
			leaving = leaving || t.Key == toBeDeleted
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = leaving
}

// Healthy says whether what is programmed is not stale.
func (s *Server) Healthy() bool { return s.health().Healthy }

// Run answers until ctx ends. An address that is taken is tried again.
func (s *Server) Run(ctx context.Context) error {
	return httpserve.Run(ctx, s.cfg.Address, s, s.cfg.Log)
}

// ServeHTTP answers both paths.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := s.health()
	yes, path := h.Healthy, "livez"
	switch r.URL.Path {
	case "/livez":
	case "/healthz":
		path = "healthz"
		h.NodeEligible = new(h.eligible)
		yes = yes && h.eligible
	default:
		http.NotFound(w, r)
		return
	}
	if yes {
		// It says that all is well now, not when something happened last.
		h.LastUpdated = h.CurrentTime
	}
	s.cfg.Counted(path, status(yes))
	body, _ := json.Marshal(h) // times of this era do not fail
	answer(w, yes, body)
}

// health is kube-proxy's answer.
type health struct {
	LastUpdated  time.Time                        `json:"lastUpdated"`
	CurrentTime  time.Time                        `json:"currentTime"`
	NodeEligible *bool                            `json:"nodeEligible,omitempty"`
	Healthy      bool                             `json:"healthy"`
	Status       map[corev1.IPFamily]familyHealth `json:"status,omitempty"`
	eligible     bool
}

type familyHealth struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

func (s *Server) health() health {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	oldest := s.taken
	if oldest.IsZero() {
		oldest = s.queued
	}
	// Both readings are monotonic, so a step of the wall clock is not an age. A
	// proxy that has only begun may take its time.
	stale := !s.updated.IsZero() && !oldest.IsZero() && now.Sub(oldest) >= s.cfg.StaleAfter
	h := health{LastUpdated: s.updated, CurrentTime: now, Healthy: !stale, eligible: !s.leaving}
	if s.updated.IsZero() {
		return h // nothing to tell of the families yet
	}
	h.Status = make(map[corev1.IPFamily]familyHealth, len(s.cfg.Families))
	for _, f := range s.cfg.Families {
		h.Status[f] = familyHealth{s.updated, !stale}
	}
	return h
}
