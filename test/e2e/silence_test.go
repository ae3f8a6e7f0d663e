package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// renewed gives when a node's lease was renewed last.
func renewed(t *testing.T, b *box, node string) (time.Time, error) {
	t.Helper()
	out, err := b.run(t.Context(), "", "kubectl", "get", "lease", node, "-n", "kube-node-lease", "-o", "jsonpath={.spec.renewTime}")
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: %s", err, out)
	}
	return time.Parse(time.RFC3339Nano, strings.TrimSpace(out))
}

// podOn runs a Pod on a node, by name: its agent alone has to hear of it.
func podOn(t *testing.T, b *box, ns, name, node string, within time.Duration) {
	t.Helper()
	b.apply(t, ns, fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {nodeName: %s, terminationGracePeriodSeconds: 1,
		containers: [{name: c, image: "viaduct/toolbox:1", args: [serve, "--http=:5000"]}]}}`, name, node))
	b.kubectl(t, "wait", "-n", ns, "--for=condition=Ready", "pod/"+name, "--timeout="+within.String())
}

// TestNodesComeBackFromADeadControlPlane kills the process that holds the API:
// the other nodes hear of new Pods, and renew their leases, at once and not
// only when a lease has nearly run out (40 s).
func TestNodesComeBackFromADeadControlPlane(t *testing.T) {
	b := ownBox(t, "--nodes", "2")
	if err := syscall.Kill(pidOf(t, b, "node", "node-1"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	if out, err := b.run(t.Context(), "", "up"); err != nil {
		t.Fatalf("up again: %v\n%s", err, out)
	}
	podOn(t, b, "default", "after", "node-2", 10*time.Second)
	eventually(t, 15*time.Second, func() error {
		at, err := renewed(t, b, "node-2")
		if err == nil && !at.After(killed) {
			err = fmt.Errorf("the lease of node-2 was last renewed %v before the kill", killed.Sub(at))
		}
		return err
	})
}

// TestASilentConnectionIsReplaced drops every packet of the connections that a
// node has to the API, as a network does that has forgotten them: no end is ever
// seen. The node must find out by itself, long before it counts as dead.
func TestASilentConnectionIsReplaced(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	podOn(t, b, ns, "before", "node-2", 20*time.Second)
	hole := blackHole(t, b, "node-2")
	began := time.Now()
	podOn(t, b, ns, "after", "node-2", 20*time.Second)
	t.Logf("the node hears of Pods again after %v", time.Since(began))
	eventually(t, 20*time.Second, func() error {
		at, err := renewed(t, b, "node-2")
		if err == nil && !at.After(began) {
			err = fmt.Errorf("the lease of node-2 was last renewed %v before its connections died", began.Sub(at))
		}
		return err
	})
	if n := hole.dropped(t); n == 0 {
		t.Error("nothing was dropped: the node's connections were not those that were cut")
	}
	out := b.kubectl(t, "get", "events", "-A", "--field-selector", "reason=NodeNotReady")
	if strings.Contains(out, "node-2") {
		t.Errorf("the node was given up:\n%s", out)
	}
}

// hole is a table in a node's own network namespace that drops the packets of
// connections that were open when it was made.
type hole struct{ namespace string }

const holeTable = "inet e2e_silence"

func blackHole(t *testing.T, b *box, node string) hole {
	t.Helper()
	h := hole{namespace: "viaduct-" + b.name + "-" + node}
	ports := apiConnections(t, pidOf(t, b, "node", node))
	if len(ports) == 0 {
		t.Fatalf("%s has no connection to the API", node)
	}
	t.Cleanup(func() { h.nft("delete table " + holeTable) })
	list := strings.Join(ports, ", ")
	rules := fmt.Sprintf(`table %s {
		chain out { type filter hook output priority -400; tcp dport 6443 tcp sport { %s } counter drop; }
		chain in { type filter hook prerouting priority -400; tcp sport 6443 tcp dport { %s } counter drop; }
	}`, holeTable, list, list)
	if out, err := h.nft(rules); err != nil {
		t.Fatalf("nft: %v\n%s\n%s", err, out, rules)
	}
	return h
}

func (h hole) nft(script string) (string, error) {
	cmd := exec.Command("ip", "netns", "exec", h.namespace, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// dropped counts the packets.
func (h hole) dropped(t *testing.T) int {
	t.Helper()
	out, err := h.nft("list table " + holeTable)
	if err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	total := 0
	for _, m := range regexp.MustCompile(`packets (\d+)`).FindAllStringSubmatch(out, -1) {
		n, _ := strconv.Atoi(m[1])
		total += n
	}
	return total
}

// apiConnections gives the local ports of all connections to port 6443 that are
// open in a process's network namespace.
func apiConnections(t *testing.T, pid int) []string {
	t.Helper()
	var ports []string
	for _, file := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, file))
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			// sl local_address rem_address st: addresses end in :PORT, in hex.
			f := strings.Fields(string(line))
			const established = "01"
			if len(f) < 4 || f[3] != established || !strings.HasSuffix(f[2], fmt.Sprintf(":%04X", 6443)) {
				continue
			}
			_, local, _ := strings.Cut(f[1], ":")
			port, err := strconv.ParseUint(local, 16, 16)
			if err != nil {
				t.Fatalf("%s: %v", f[1], err)
			}
			ports = append(ports, strconv.FormatUint(port, 10))
		}
	}
	return ports
}
