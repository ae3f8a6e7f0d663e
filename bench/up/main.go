// Command up measures what a user of `viaduct up` waits for and pays: the time
// from the command to the first answer through a ClusterIP, by DNS name, from
// a real container; and the memory of an idle box.
//
// Cold means without a state directory; the page cache is warm (one run that
// is not counted comes first).
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"viaduct.dev/viaduct/bench/report"
)

const workload = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 5000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: web, image: "viaduct/toolbox:1", args: [serve, "--http=:5000"], readinessProbe: {httpGet: {path: /ready, port: 5000}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  containers:
  - {name: client, image: "viaduct/toolbox:1", args: [get, "--retry=30s", "http://web/hostname"]}
`

func main() {
	bin := flag.String("viaduct", "bin/viaduct", "the binary to measure")
	rounds := flag.Int("rounds", 5, "rounds that count; one more comes first and does not")
	flag.Parse()
	if err := run(*bin, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench up:", err)
		os.Exit(1)
	}
}

func run(bin string, rounds int) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	phases := map[int]map[string][]float64{1: {}, 3: {}}
	first := map[int][]float64{}
	ready := map[int][]float64{}
	memory := map[int][]float64{}
	for round := 0; round <= rounds; round++ {
		for _, nodes := range []int{1, 3} {
			s, err := measure(bin, nodes)
			if err != nil {
				return fmt.Errorf("%d nodes, round %d: %w", nodes, round, err)
			}
			fmt.Printf("round %d, %d nodes: ready %.3f s, first answer %.3f s, idle %.1f MB\n", round, nodes, s.ready, s.answer, s.idleMB)
			if round == 0 {
				continue
			}
			first[nodes] = append(first[nodes], s.answer)
			ready[nodes] = append(ready[nodes], s.ready)
			memory[nodes] = append(memory[nodes], s.idleMB)
			for _, phase := range order {
				phases[nodes][phase] = append(phases[nodes][phase], s.at[phase])
			}
		}
	}
	tellPhases(phases)
	var each []float64
	for i := range memory[3] {
		each = append(each, (memory[3][i]-memory[1][i])/2)
	}
	return report.Write(os.Stdout, "bench", "up", []report.Row{
		report.AtMost("one node: up to first answer by name from a container", "s", 1.5, first[1]),
		report.AtMost("three nodes: up to first answer by name from a container", "s", 3, first[3]),
		report.AtMost("one node: up returns", "s", 1.5, ready[1]),
		report.AtMost("three nodes: up returns", "s", 3, ready[3]),
		report.AtMost("one node idle, sum of PSS", "MB", 150, memory[1]),
		report.AtMost("each further node idle, sum of PSS", "MB", 50, each),
	})
}

type sample struct {
	ready, answer, idleMB float64
	at                    map[string]float64 // seconds after the start, by phase
}

// The phases between the command and the answer, by what ends them.
const (
	prepared  = "namespaces, network, certificates and image are there"
	processes = "the nodes' processes run"
	api       = "the API answers"
	returned  = "every node is ready: up returns"
	applied   = "kubectl apply returns"
	answered  = "the client in its container has its answer"
)

var order = []string{prepared, processes, api, returned, applied, answered}

// step is a line that `viaduct up` prints: when, what, and how long it took.
var step = regexp.MustCompile(`(?m)^ +([0-9.]+) s  (?:(node-[0-9]+): )?([A-Za-z ]+?) {2,}`)

// phasesOf reads when each phase of `viaduct up` ended.
func phasesOf(out string) map[string]float64 {
	at := map[string]float64{}
	for _, m := range step.FindAllStringSubmatch(out, -1) {
		seconds, err := strconv.ParseFloat(m[1], 64)
		phase := prepared
		switch {
		case err != nil || m[2] != "" && m[3] != "process" && m[3] != "API":
			continue
		case m[3] == "API":
			phase = api
		case m[2] != "":
			phase = processes
		}
		at[phase] = max(at[phase], seconds)
	}
	return at
}

// tellPhases prints where the time goes, in medians.
func tellPhases(phases map[int]map[string][]float64) {
	tw := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SECONDS AFTER THE COMMAND\tONE NODE\tTHREE NODES")
	for _, phase := range order {
		fmt.Fprintf(tw, "%s\t%.3f\t%.3f\n", phase, median(phases[1][phase]), median(phases[3][phase]))
	}
	fmt.Fprintln(tw)
	tw.Flush()
}

func median(samples []float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	return s[len(s)/2]
}

// measure brings one cluster up, waits for the answer, and removes it.
func measure(bin string, nodes int) (s sample, err error) {
	dir, err := os.MkdirTemp("", "viaduct-bench-")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	viaduct := func(stdin string, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, bin, args...)
		cmd.Env = append(os.Environ(), "VIADUCT_NAME=bench", "VIADUCT_STATE_DIR="+dir)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("viaduct %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return string(out), nil
	}
	defer func() {
		if _, downErr := viaduct("", "down"); err == nil {
			err = downErr
		}
	}()

	start := time.Now()
	out, err := viaduct("", "up", "--nodes", strconv.Itoa(nodes))
	if err != nil {
		return s, err
	}
	s.ready = time.Since(start).Seconds()
	s.at = phasesOf(out)
	s.at[returned] = s.ready
	if _, err := viaduct(workload, "kubectl", "apply", "-f", "-"); err != nil {
		return s, err
	}
	s.at[applied] = time.Since(start).Seconds()
	for {
		// The time is the runtime's own, in nanoseconds, of the line that the
		// client printed; asking for it later does not change it.
		out, err := viaduct("", "kubectl", "logs", "--timestamps", "client")
		if stamp, _, ok := strings.Cut(out, " "); err == nil && ok && strings.Contains(out, "web") {
			at, err := time.Parse(time.RFC3339Nano, stamp)
			if err != nil {
				return s, err
			}
			s.answer = at.Sub(start).Seconds()
			s.at[answered] = s.answer
			break
		}
		if ctx.Err() != nil {
			return s, fmt.Errorf("no answer within a minute: %s %v", out, err)
		}
	}
	if _, err := viaduct("", "kubectl", "delete", "pod,svc", "web", "--ignore-not-found"); err != nil {
		return s, err
	}
	if _, err := viaduct("", "kubectl", "delete", "pod", "client"); err != nil {
		return s, err
	}
	s.idleMB, err = idle(ctx, viaduct)
	return s, err
}

// idle gives the sum of the box's proportional set sizes in MB (10^6 bytes),
// after ten seconds of rest.
func idle(ctx context.Context, viaduct func(string, ...string) (string, error)) (float64, error) {
	select {
	case <-time.After(10 * time.Second):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	out, err := viaduct("", "status", "-o", "json")
	if err != nil {
		return 0, err
	}
	var status struct {
		Processes []struct {
			PID int `json:"pid"`
		} `json:"processes"`
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return 0, fmt.Errorf("read status: %w", err)
	}
	var sum float64
	for _, p := range status.Processes {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.PID))
		if err != nil {
			return 0, err
		}
		for line := range bytes.Lines(text) {
			if f := strings.Fields(string(line)); len(f) > 1 && f[0] == "Pss:" {
				kb, err := strconv.ParseFloat(f[1], 64)
				if err != nil {
					return 0, err
				}
				sum += kb * 1024 / 1e6
			}
		}
	}
	return sum, nil
}
