package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKilledAtAnyMomentOfItsWork kills a process of the box at some moment while
// Pods come and go, then brings it up again: the Pods that were asked for run,
// answer by the Service's name, and nothing that was acknowledged is lost.
// VIADUCT_CHAOS is the number of rounds.
func TestKilledAtAnyMomentOfItsWork(t *testing.T) {
	b := ownBox(t, "--nodes", "2")
	b.apply(t, "default", `{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 5000}]}}`)
	webUp(t, b, "default", 2)
	rounds, err := strconv.Atoi(os.Getenv("VIADUCT_CHAOS"))
	if err != nil {
		rounds = 4
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("VIADUCT_CHAOS_SEED"); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	t.Logf("VIADUCT_CHAOS_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var kept []string
	for round := range rounds {
		want := 1 + random.IntN(6)
		all := processes(t, b)
		victim := all[random.IntN(len(all))]
		after := time.Duration(random.IntN(400)) * time.Millisecond
		what := fmt.Sprintf("round %d: %s %s killed %s after scaling to %d", round, victim.Role, victim.Node, after, want)
		t.Log(what)
		item := fmt.Sprintf("kept-%d", round)
		b.kubectl(t, "create", "configmap", item)
		kept = append(kept, item)
		b.kubectl(t, "scale", "deployment/web", "--replicas", strconv.Itoa(want))
		<-time.After(after) // the moment is the point, not a wait for something
		if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			t.Fatal(err)
		}
		if out, err := b.run(t.Context(), "", "up"); err != nil {
			t.Fatalf("%s: up again: %v\n%s", what, err, out)
		}
		eventually(t, 40*time.Second, func() error {
			out, err := b.run(t.Context(), "", "kubectl", "get", "pods", "-l", "app=web", "--no-headers")
			lines := strings.Split(strings.TrimSpace(out), "\n")
			if err != nil || len(lines) != want || strings.Count(out, " 1/1 ") != want {
				return fmt.Errorf("%s: %v\n%s", what, err, out)
			}
			return nil
		})
		eventually(t, 10*time.Second, func() error {
			out, err := b.run(t.Context(), "", "shell", "--", "sh", "-c", "for i in $(seq 40); do curl -sS --max-time 3 http://web/hostname; echo; done")
			count := map[string]bool{}
			for _, name := range strings.Fields(out) {
				count[name] = true
			}
			if err != nil || len(count) != want {
				return fmt.Errorf("%s: %v: %s", what, err, out)
			}
			return nil
		})
		b.kubectl(t, append([]string{"get", "configmaps"}, kept...)...)
	}
}
