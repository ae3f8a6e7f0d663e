package box

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// DefaultRoot holds the directories of all clusters.
const DefaultRoot = "/var/lib/viaduct"

// Dir is the directory of one cluster, absolute: everything of it that is a
// file, below the root that is shared by all.
type Dir string

// Lock is held by whoever runs the cluster.
func (d Dir) Lock() string { return d.path("lock") }

// Socket is where the supervisor is asked.
func (d Dir) Socket() string { return d.path("supervisor.sock") }

// Log is what the supervisor and the nodes have to say.
func (d Dir) Log() string { return d.path("daemon.log") }

// Kubeconfig is the administrator's, for the host.
func (d Dir) Kubeconfig() string { return d.path("kubeconfig") }

// PKI holds the certificates.
func (d Dir) PKI() string { return d.path("pki") }

// Data holds the API's objects.
func (d Dir) Data() string { return d.path("data") }

// Images is the store of images, for all nodes.
func (d Dir) Images() string { return d.path("images") }

// Programs holds the shim.
func (d Dir) Programs() string { return d.path("bin") }

// Node is what belongs to one node: its Pods.
func (d Dir) Node(node string) string { return d.path("nodes", node) }

// Pods are the directories of all Pods, of all nodes.
func (d Dir) Pods() []string {
	all, _ := filepath.Glob(d.path("nodes", "*", "pods", "*"))
	return all
}

// Shell is where `viaduct shell` has files of its own, in a mount namespace of
// its own.
func (d Dir) Shell() string { return d.path("shell") }

func (d Dir) processFile() string { return d.path("processes.json") }

func (d Dir) specFile() string { return d.path("cluster.json") }

func (d Dir) path(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

// ErrNoCluster says that a directory holds no cluster.
var ErrNoCluster = errors.New("no such cluster")

// Load reads the settings that the cluster was made with.
func (d Dir) Load() (Spec, error) {
	text, err := os.ReadFile(d.specFile())
	if errors.Is(err, fs.ErrNotExist) {
		return Spec{}, fmt.Errorf("%s: %w", filepath.Base(string(d)), ErrNoCluster)
	}
	if err != nil {
		return Spec{}, fmt.Errorf("read the cluster's settings: %w", err)
	}
	var s Spec
	if err := json.Unmarshal(text, &s); err != nil {
		return Spec{}, fmt.Errorf("read the cluster's settings from %s: %w", d.specFile(), err)
	}
	return s, nil
}

// Save stores the settings.
func (d Dir) Save(s Spec) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("store the cluster's settings: %w", err)
	}
	if err := ReplaceFile(d.specFile(), append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("store the cluster's settings: %w", err)
	}
	return nil
}

// ReplaceFile writes a file so that a reader, or whoever comes after a killed
// process, sees all of it or what was there before.
func ReplaceFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
