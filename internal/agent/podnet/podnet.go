package podnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"viaduct.dev/viaduct/internal/lab"
)

// DefaultMTU is that of a Pod's interface.
const DefaultMTU = 1500

// Config says whose network it is.
type Config struct {
	// Node is the node's network namespace. It stays the caller's and must
	// outlive the Network.
	Node *lab.Namespace
	// NodeIPs are the node's own addresses, by which it speaks to its Pods.
	NodeIPs []netip.Addr
	// PodCIDRs are the node's ranges, at most one of each family.
	PodCIDRs []netip.Prefix
	// Dir remembers which address was given out last. It must exist.
	Dir string
	// MTU of the Pods' interfaces; 0 means DefaultMTU.
	MTU int
}

// Network is the network of one node's Pods. Its methods may be called
// concurrently.
type Network struct {
	cfg Config

	mu   sync.Mutex // guards what follows
	pool *pool
}

// attachment is what a Pod's directory says of its network.
type attachment struct {
	UID       string       `json:"uid"`
	Link      string       `json:"link"`
	Addresses []netip.Addr `json:"addresses"`
}

// New prepares the node for its Pods: it forwards, and whatever is sent to an
// address of its ranges that no Pod has is refused at once.
func New(cfg Config) (*Network, error) {
	if cfg.MTU == 0 {
		cfg.MTU = DefaultMTU
	}
	p, err := newPool(cfg.PodCIDRs)
	if err != nil {
		return nil, fmt.Errorf("set up the pod network: %w", err)
	}
	n := &Network{cfg: cfg, pool: p}
	if text, err := os.ReadFile(n.lastFile()); err == nil {
		if last, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			p.last = last
		}
	}
	if err := n.prepareNode(); err != nil {
		return nil, fmt.Errorf("set up the pod network: %w", err)
	}
	return n, nil
}

// Adopt claims the addresses that the Pod whose directory this is was given
// before a restart, so that no other gets them. To be called for every Pod
// before the first Attach.
func (n *Network) Adopt(stateDir string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a, err := load(stateDir); err == nil {
		n.pool.claim(a.UID, a.Addresses)
	}
}

// Attach gives a Pod its interface and addresses. A Pod that has them already
// keeps them, also across restarts; what is missing is made.
func (n *Network) Attach(stateDir, uid, podNetNS string) ([]netip.Addr, error) {
	a, err := n.assign(stateDir, uid)
	if err != nil {
		return nil, fmt.Errorf("attach pod %s to the network: %w", uid, err)
	}
	pod, err := lab.Open(podNetNS)
	if err != nil {
		return nil, fmt.Errorf("attach pod %s to the network: %w", uid, err)
	}
	defer pod.Close()
	if err := n.connect(a, pod); err != nil {
		return nil, fmt.Errorf("attach pod %s to the network: %w", uid, err)
	}
	return a.Addresses, nil
}

// assign finds or chooses the Pod's addresses and writes them down first: an
// address is never in use without a file that says so.
func (n *Network) assign(stateDir, uid string) (attachment, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a, err := load(stateDir)
	if err == nil && a.UID == uid {
		if _, ok := n.pool.claim(uid, a.Addresses); ok {
			return a, nil
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return a, err
	}
	index, err := n.pool.take(uid)
	if err != nil {
		return a, err
	}
	a = attachment{UID: uid, Link: linkName(uid), Addresses: n.pool.addresses(index)}
	text, err := json.Marshal(a)
	if err == nil {
		err = replaceFile(file(stateDir), text)
	}
	if err == nil {
		err = replaceFile(n.lastFile(), []byte(strconv.Itoa(index)+"\n"))
	}
	if err != nil {
		n.pool.release(uid)
		return a, err
	}
	return a, nil
}

// Detach takes a Pod's interface away and gives its addresses back. A Pod that
// has none is no error.
func (n *Network) Detach(stateDir string) error {
	a, err := load(stateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := n.disconnect(a); err != nil {
		return fmt.Errorf("detach pod %s from the network: %w", a.UID, err)
	}
	if err := os.Remove(file(stateDir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("detach pod %s from the network: %w", a.UID, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pool.release(a.UID)
	return nil
}

// Addresses are those that the Pod whose directory this is was given, or none.
func Addresses(stateDir string) []netip.Addr {
	a, err := load(stateDir)
	if err != nil {
		return nil
	}
	return a.Addresses
}

func (n *Network) lastFile() string { return filepath.Join(n.cfg.Dir, "last-pod-address") }

func file(stateDir string) string { return filepath.Join(stateDir, "network.json") }

func load(stateDir string) (attachment, error) {
	var a attachment
	text, err := os.ReadFile(file(stateDir))
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(text, &a); err != nil {
		return a, fmt.Errorf("read %s: %w", file(stateDir), err)
	}
	return a, nil
}

func replaceFile(path string, data []byte) error {
	next := path + ".new"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}
