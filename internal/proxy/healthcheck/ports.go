package healthcheck

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/types"

	"viaduct.dev/viaduct/internal/proxy/httpserve"
	"viaduct.dev/viaduct/internal/servicetable"
)

// Ports answers at the healthCheckNodePorts of Services: whether this node has
// endpoints of one that are ready. A balancer is to leave a node out as soon as
// its last ready endpoint is gone; one that terminates goes on serving those who
// come in the meantime.
//
// All methods belong to one goroutine.
type Ports struct {
	addrs   []netip.Addr
	healthy func() bool
	log     *slog.Logger
	open    map[types.NamespacedName]*port
	serving sync.WaitGroup
}

type port struct {
	service types.NamespacedName
	number  uint16
	local   atomic.Int64 // endpoints that are ready on this node
	servers map[netip.Addr]*http.Server
	taken   bool // by somebody else, as was told
}

// NewPorts returns what answers nowhere yet. healthy says whether the node's
// proxy is: while it is not, every answer is a no.
func NewPorts(healthy func() bool, log *slog.Logger) *Ports {
	return &Ports{healthy: healthy, log: log, open: map[types.NamespacedName]*port{}}
}

// SetAddresses says where to answer from now on: the addresses that offer node
// ports. Those that stay are not interrupted.
func (p *Ports) SetAddresses(addrs []netip.Addr) []error {
	p.addrs = append([]netip.Addr(nil), addrs...)
	return p.listenAll()
}

// Set makes a port answer as told. An error says that somebody else has the port
// on one of the addresses: it is for the Service's owner to hear, and Retry goes
// on trying.
func (p *Ports) Set(c servicetable.HealthChange) error {
	have := p.open[c.Service]
	if have != nil && have.number != c.Port {
		p.shut(have)
		have = nil
	}
	if c.Port == 0 {
		return nil
	}
	if have == nil {
		have = &port{service: c.Service, number: c.Port, servers: map[netip.Addr]*http.Server{}}
		p.open[c.Service] = have
	}
	have.local.Store(int64(c.Local))
	return p.listen(have)
}

// Missing says whether a port is not open everywhere it should be.
func (p *Ports) Missing() bool {
	for _, o := range p.open {
		if o.taken {
			return true
		}
	}
	return false
}

// Retry tries again to open what is missing. What was told before is not told
// again.
func (p *Ports) Retry() { p.listenAll() }

// Close answers nobody any more.
func (p *Ports) Close() {
	for _, o := range p.open {
		p.shut(o)
	}
	p.serving.Wait()
}

func (p *Ports) listenAll() (errs []error) {
	for _, o := range p.open {
		if err := p.listen(o); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// A TakenError says that a Service's port is another program's.
type TakenError struct {
	Service types.NamespacedName
	Port    uint16
	Err     error
}

// Error tells where.
func (e *TakenError) Error() string {
	return fmt.Sprintf("failed to start healthcheck %q on port %d: %v", e.Service, e.Port, e.Err)
}

// Unwrap is the cause.
func (e *TakenError) Unwrap() error { return e.Err }

// listen makes a port's servers be those of the addresses.
func (p *Ports) listen(o *port) error {
	wanted := make(map[netip.Addr]bool, len(p.addrs))
	var errs []error
	for _, a := range p.addrs {
		wanted[a] = true
		if o.servers[a] != nil {
			continue
		}
		l, err := net.Listen("tcp", netip.AddrPortFrom(a, o.number).String())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		o.servers[a] = p.serve(o, l)
	}
	for a, s := range o.servers {
		if !wanted[a] {
			_ = s.Close()
			delete(o.servers, a)
		}
	}
	told := o.taken
	o.taken = len(errs) > 0
	if o.taken && !told {
		return &TakenError{o.service, o.number, errors.Join(errs...)}
	}
	if told && !o.taken {
		p.log.Info("a health-check node port is free at last", "service", o.service, "port", o.number)
	}
	return nil
}

func (p *Ports) serve(o *port, l net.Listener) *http.Server {
	s := httpserve.New(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { o.answer(w, p.healthy()) }))
	p.serving.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			p.log.Error("a health-check node port is served no more", "service", o.service, "port", o.number, "err", err)
		}
	})
	return s
}

func (o *port) answer(w http.ResponseWriter, healthy bool) {
	local := o.local.Load()
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(local, 10))
	type name struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	}
	body, _ := json.MarshalIndent(struct {
		Service name  `json:"service"`
		Local   int64 `json:"localEndpoints"`
		Healthy bool  `json:"serviceProxyHealthy"`
	}{name{o.service.Namespace, o.service.Name}, local, healthy}, "", "\t") // strings and numbers do not fail
	answer(w, local > 0 && healthy, body)
}

// answer says yes or no, with the reasons.
func answer(w http.ResponseWriter, yes bool, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status(yes))
	_, _ = w.Write(body)
}

func status(yes bool) int {
	if yes {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

func (p *Ports) shut(o *port) {
	delete(p.open, o.service)
	for _, s := range o.servers {
		_ = s.Close()
	}
}
