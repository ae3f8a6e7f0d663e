package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/cluster/control"
)

// The states of a cluster.
const (
	StateReady    = "ready"
	StateStarting = "starting" // its supervisor runs
	StateStopped  = "stopped"  // nothing runs but, perhaps, containers
)

// Status describes a cluster.
type Status struct {
	Name       string         `json:"name"`
	State      string         `json:"state"`
	API        string         `json:"api"`
	Kubeconfig string         `json:"kubeconfig"`
	Log        string         `json:"log"`
	StateDir   string         `json:"stateDir"`
	Nodes      []Node         `json:"nodes"`
	Ports      []control.Port `json:"ports"`
	Processes  []box.Process  `json:"processes"`
}

// Node describes a node.
type Node struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
	Ready     bool         `json:"ready"`
	Restarts  int          `json:"restarts"`
	Error     string       `json:"error,omitempty"` // how its process ended last
}

// Inspect describes the cluster in a directory, whether it runs or not.
func Inspect(ctx context.Context, dir box.Dir) (Status, error) {
	spec, err := dir.Load()
	if err != nil {
		return Status{}, err
	}
	s := Status{
		Name:       spec.Name,
		State:      StateStopped,
		API:        fmt.Sprintf("https://127.0.0.1:%d", spec.APIPort),
		Kubeconfig: dir.Kubeconfig(),
		Log:        dir.Log(),
		StateDir:   string(dir),
		Ports:      []control.Port{},
		Processes:  dir.Processes(),
	}
	for i, name := range spec.NodeNames() {
		s.Nodes = append(s.Nodes, Node{Name: name, Addresses: spec.NodeAddresses(i + 1)})
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	said, err := control.NewClient(dir.Socket()).Status(ctx)
	if errors.Is(err, control.ErrNotRunning) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	s.State = StateStarting
	if said.Ready {
		s.State = StateReady
	}
	s.Ports = said.Ports
	for i := range s.Nodes {
		for _, n := range said.Nodes {
			if n.Name == s.Nodes[i].Name {
				s.Nodes[i].Ready, s.Nodes[i].Restarts, s.Nodes[i].Error = n.Ready, n.Restarts, n.Error
			}
		}
	}
	return s, nil
}

// List describes every cluster below a root.
func List(ctx context.Context, root string) ([]Status, error) {
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list clusters: %w", err)
	}
	var all []Status
	for _, e := range entries {
		s, err := Inspect(ctx, box.Dir(filepath.Join(root, e.Name())))
		if errors.Is(err, box.ErrNoCluster) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list clusters: %s: %w", e.Name(), err)
		}
		all = append(all, s)
	}
	return all, nil
}
