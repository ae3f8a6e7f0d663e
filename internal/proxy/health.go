package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"viaduct.dev/viaduct/internal/servicetable"
)

// healthPorts answers at the healthCheckNodePort of Services: load balancers ask
// there which nodes have an endpoint to send to. Ports are opened by the
// goroutine that calls set, in its network namespace.
type healthPorts struct {
	addrs   []netip.Addr
	healthy func() bool // whether the node's proxy itself is
	log     *slog.Logger
	open    map[types.NamespacedName]*healthPort
	serving sync.WaitGroup
}

// healthPort is one Service's.
type healthPort struct {
	service types.NamespacedName
	port    uint16
	local   atomic.Int64 // endpoints that are ready on this node
	server  *http.Server
}

func newHealthPorts(addrs []netip.Addr, healthy func() bool, log *slog.Logger) *healthPorts {
	return &healthPorts{addrs: addrs, healthy: healthy, log: log, open: map[types.NamespacedName]*healthPort{}}
}

// set opens, changes or closes a Service's port. A port that is taken is tried
// again when the Service's endpoints change.
func (h *healthPorts) set(c servicetable.HealthChange) error {
	have := h.open[c.Service]
	if have != nil && have.port != c.Port {
		h.shut(have)
		have = nil
	}
	if c.Port == 0 {
		return nil
	}
	if have == nil {
		have = &healthPort{service: c.Service, port: c.Port}
		if err := h.listen(have); err != nil {
			return err
		}
		h.open[c.Service] = have
	}
	have.local.Store(int64(c.Local))
	return nil
}

func (h *healthPorts) listen(p *healthPort) error {
	p.server = &http.Server{
		Handler:     http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { p.answer(w, h.healthy()) }),
		ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
		ErrorLog: log.New(io.Discard, "", 0), // a balancer that leaves is no news
	}
	var listeners []net.Listener
	var errs []error
	for _, a := range h.addrs {
		l, err := net.Listen("tcp", netip.AddrPortFrom(a, p.port).String())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		listeners = append(listeners, l)
	}
	for _, l := range listeners {
		h.serving.Go(func() {
			if err := p.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				h.log.Error("a health-check node port is served no more", "service", p.service, "port", p.port, "err", err)
			}
		})
	}
	if len(listeners) == 0 && len(errs) > 0 {
		return fmt.Errorf("serve the health check of %s: %w", p.service, errors.Join(errs...))
	}
	return nil
}

// answer is in the form of kube-proxy's (pkg/proxy/healthcheck).
func (p *healthPort) answer(w http.ResponseWriter, healthy bool) {
	local := p.local.Load()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(local, 10))
	if local == 0 || !healthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	type name struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	}
	out := json.NewEncoder(w)
	out.SetIndent("", "\t")
	_ = out.Encode(struct {
		Service name  `json:"service"`
		Local   int64 `json:"localEndpoints"`
		Healthy bool  `json:"serviceProxyHealthy"`
	}{name{p.service.Namespace, p.service.Name}, local, healthy})
}

func (h *healthPorts) shut(p *healthPort) {
	delete(h.open, p.service)
	_ = p.server.Close()
}

// close shuts every port and waits for what serves them.
func (h *healthPorts) close() {
	for _, p := range h.open {
		h.shut(p)
	}
	h.serving.Wait()
}
