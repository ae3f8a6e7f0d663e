package fabric_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/cluster/fabric"
	"viaduct.dev/viaduct/internal/lab"
	"viaduct.dev/viaduct/internal/lab/labtest"
)

func cabled(t *testing.T, dir box.Dir, spec box.Spec) *fabric.Fabric {
	t.Helper()
	labtest.NeedRoot(t)
	t.Cleanup(func() {
		if err := fabric.Remove(spec.Name); err != nil {
			t.Error(err)
		}
	})
	f, err := fabric.Open(dir, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	if err := f.Cable(); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestNodesReachEachOtherAndNothingElse(t *testing.T) {
	spec := box.Default(fmt.Sprintf("fabtest%d", os.Getpid()))
	spec.Nodes = 2
	f := cabled(t, box.Dir(t.TempDir()), spec)
	one, two := f.Nodes["node-1"], f.Nodes["node-2"]
	for _, a := range spec.NodeAddresses(2) {
		l, err := two.Listen(t.Context(), "tcp", fmt.Sprintf("[%s]:80", a))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		conn, err := one.DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatalf("from node-1 to %s: %v", a, err)
		}
		conn.Close()
	}
	for _, away := range []string{"192.0.2.1:80", "[2001:db8::1]:80"} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := one.DialContext(ctx, "tcp", away)
		cancel()
		if !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("%s: %v, want unreachable at once", away, err)
		}
	}
}

func TestTheNetworkIsFoundAgain(t *testing.T) {
	spec := box.Default(fmt.Sprintf("fabagain%d", os.Getpid()))
	dir := box.Dir(t.TempDir())
	first := cabled(t, dir, spec)
	second := cabled(t, dir, spec)
	if same, err := first.Nodes["node-1"].Is(second.Nodes["node-1"]); err != nil || !same {
		t.Errorf("another namespace: %v", err)
	}
}

// A link that its maker was killed over is down and has no address.
func TestAHalfMadeNetworkIsCompleted(t *testing.T) {
	spec := box.Default(fmt.Sprintf("fabhalf%d", os.Getpid()))
	dir := box.Dir(t.TempDir())
	f := cabled(t, dir, spec)
	node := f.Nodes["node-1"]
	bridge, err := lab.Open(box.FabricNamespace(spec.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer bridge.Close()
	for ns, link := range map[*lab.Namespace]string{node: fabric.Uplink, bridge: fabric.Bridge} {
		h, err := ns.Handle()
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		l, err := h.LinkByName(link)
		if err == nil {
			err = h.LinkSetDown(l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cabled(t, dir, spec)
	for _, gateway := range spec.GatewayPrefixes() {
		l, err := bridge.Listen(t.Context(), "tcp", fmt.Sprintf("[%s]:80", gateway.Addr()))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		conn, err := node.DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatalf("to %s: %v", gateway, err)
		}
		conn.Close()
	}
}

func TestAnothersNameIsInUse(t *testing.T) {
	spec := box.Default(fmt.Sprintf("fabname%d", os.Getpid()))
	mine := box.Dir(t.TempDir())
	cabled(t, mine, spec)
	_, err := fabric.Open(box.Dir(t.TempDir()), spec)
	if err == nil || !strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), string(mine)) {
		t.Errorf("%v", err)
	}
}

func TestRemoveLeavesNoNamespace(t *testing.T) {
	spec := box.Default(fmt.Sprintf("fabgone%d", os.Getpid()))
	cabled(t, box.Dir(t.TempDir()), spec)
	if err := fabric.Remove(spec.Name); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir("/run/netns"); strings.Contains(fmt.Sprint(entries), spec.Name) {
		t.Errorf("left: %v", entries)
	}
}
