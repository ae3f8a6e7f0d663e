package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"viaduct.dev/viaduct/internal/agent/runtime/builtin"
	"viaduct.dev/viaduct/internal/cluster"
	"viaduct.dev/viaduct/internal/cluster/box"
)

// TestKilledAtAnyMomentOfItsStart kills the command, the supervisor, the node or
// all of them at some moment of a box's start; the next `up` must succeed. A
// `down` is killed too at times; the next must leave nothing.
func TestKilledAtAnyMomentOfItsStart(t *testing.T) {
	if os.Getuid() != 0 || testing.Short() {
		t.Skip("a box needs root, and a second for each round")
	}
	if _, err := builtin.Toolbox(); err != nil {
		t.Skip(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name, root := fmt.Sprintf("chaos%d", os.Getpid()), t.TempDir()
	dir := box.Dir(filepath.Join(root, name))
	down := func() {
		t.Helper()
		if err := cluster.Down(context.Background(), name, dir, t.Output()); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(down)
	command := func(word string) *exec.Cmd {
		return &exec.Cmd{
			Path: program, Args: []string{"viaduct", word},
			Env: append(os.Environ(), "VIADUCT_NAME="+name, "VIADUCT_STATE_DIR="+root),
		}
	}
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	for round := range 8 {
		after := time.Duration(random.IntN(250)) * time.Millisecond
		victim := []string{"command", box.RoleSupervisor, box.RoleNode, "all"}[random.IntN(4)]
		first := command("up")
		if err := first.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(after)
		if victim == "command" || victim == "all" {
			first.Process.Signal(syscall.SIGKILL)
		}
		for _, p := range dir.Processes() {
			if victim == p.Role || victim == "all" {
				p.Kill()
			}
		}
		first.Wait()
		if out, err := command("up").CombinedOutput(); err != nil {
			log, _ := os.ReadFile(dir.Log())
			t.Fatalf("round %d, %s killed after %s: up again: %v\n%s\n%s", round, victim, after, err, out, log)
		}
		if round%2 == 0 {
			continue
		}
		// A `down` that is killed is finished by the next, also when the cluster
		// was brought up again in between.
		cut := command("down")
		if err := cut.Start(); err != nil {
			t.Fatal(err)
		}
		after = time.Duration(random.IntN(120)) * time.Millisecond
		<-time.After(after)
		cut.Process.Signal(syscall.SIGKILL)
		cut.Wait()
		if round%4 == 3 {
			if out, err := command("up").CombinedOutput(); err != nil {
				log, _ := os.ReadFile(dir.Log())
				t.Fatalf("round %d: up when a down was killed after %s: %v\n%s\n%s", round, after, err, out, log)
			}
		}
		down()
		if _, err := os.Stat(string(dir)); !os.IsNotExist(err) {
			t.Errorf("round %d: the state directory is still there: %v", round, err)
		}
		if left, err := tracesOf(name); err != nil || len(left) > 0 {
			t.Errorf("round %d: %v: left behind:\n%s", round, err, strings.Join(left, "\n"))
		}
	}
}
