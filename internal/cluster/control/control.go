package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// The paths that the supervisor answers.
const (
	PathEvents = "/events"      // GET: Event after Event, ending with Ready or Error
	PathStatus = "/status"      // GET: Status
	PathStop   = "/stop"        // POST: ends the supervisor and the nodes
	PathPull   = "/images/pull" // POST ?name=
)

// Event is something that happened on the way up.
type Event struct {
	Node  string        `json:"node,omitempty"`
	Step  string        `json:"step,omitempty"`
	Took  time.Duration `json:"took,omitempty"`
	Ready bool          `json:"ready,omitempty"`
	Error string        `json:"error,omitempty"`
}

// Status is what the supervisor knows.
type Status struct {
	Ready bool         `json:"ready"`
	Nodes []NodeStatus `json:"nodes"`
	Ports []Port       `json:"ports"`
}

// NodeStatus is the life of a node's process.
type NodeStatus struct {
	Name     string `json:"name"`
	PID      int    `json:"pid,omitempty"`
	Ready    bool   `json:"ready"`
	Restarts int    `json:"restarts"`
	Error    string `json:"error,omitempty"` // how it ended last
}

// Port is a port of a Service that is offered on the host's 127.0.0.1.
type Port struct {
	Service  string `json:"service"` // namespace/name:port
	Kind     string `json:"kind"`    // NodePort or LoadBalancer
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port"` // inside
	HostPort uint16 `json:"hostPort"`
	Error    string `json:"error,omitempty"` // why it is not offered
}

// Failure is the answer to a request that failed.
type Failure struct {
	Error string `json:"error"`
}

// FailureError is a failure as the client reports it.
type FailureError struct{ Failure }

// Error implements error.
func (e *FailureError) Error() string { return e.Failure.Error }

// ErrNotRunning says that nobody answers.
var ErrNotRunning = errors.New("the cluster is not running; `viaduct up` resumes it")

// Client asks a supervisor.
type Client struct{ http http.Client }

// NewClient makes a client for the supervisor of a socket.
func NewClient(socket string) *Client {
	return &Client{http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return Dial(ctx, socket)
		},
		MaxIdleConns:    2,
		IdleConnTimeout: 10 * time.Second,
	}}}
}

// Follow reports what happens until the cluster is ready. An error that the
// supervisor reports is returned.
func (c *Client) Follow(ctx context.Context, report func(Event)) error {
	body, err := c.do(ctx, http.MethodGet, PathEvents, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("follow the supervisor: %w", err)
		}
		switch {
		case e.Error != "":
			return errors.New(e.Error)
		case e.Ready:
			return nil
		}
		report(e)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return ErrEnded
}

// ErrEnded says that the supervisor ended before the cluster was ready.
var ErrEnded = errors.New("the daemon has ended")

// Status asks what the supervisor knows.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, c.ask(ctx, http.MethodGet, PathStatus, nil, &s)
}

// Stop asks the supervisor to end, which it does after the answer.
func (c *Client) Stop(ctx context.Context) error {
	return c.ask(ctx, http.MethodPost, PathStop, nil, nil)
}

// Pull fetches an image from its registry.
func (c *Client) Pull(ctx context.Context, name string) error {
	return c.ask(ctx, http.MethodPost, PathPull+"?name="+url.QueryEscape(name), nil, nil)
}

func (c *Client) ask(ctx context.Context, method, path string, in io.Reader, out any) error {
	body, err := c.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer body.Close()
	if out == nil {
		_, err := io.Copy(io.Discard, body)
		return err
	}
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return fmt.Errorf("ask the supervisor for %s: %w", path, err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, in io.Reader) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://supervisor"+path, in)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		var dial *net.OpError
		if errors.As(err, &dial) && dial.Op == "dial" {
			return nil, ErrNotRunning
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, io.EOF) || strings.Contains(err.Error(), "connection reset") {
			return nil, ErrEnded
		}
		return nil, fmt.Errorf("ask the supervisor for %s: %w", path, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	f := Failure{Error: resp.Status}
	_ = json.NewDecoder(resp.Body).Decode(&f)
	return nil, &FailureError{f}
}
