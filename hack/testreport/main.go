// Command testreport turns `go test -json` into what a person wants to read:
// a line per package, the whole output of what failed, what was left out and
// why, and the totals.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
)

// event is one line of go test's JSON stream (see `go doc test2json`).
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
}

func run() error {
	output := map[string][]string{} // of "package test"
	var skipped []string
	passed, failed := 0, 0

	in := bufio.NewReader(os.Stdin)
	dec := json.NewDecoder(in)
	for dec.More() {
		var e event
		if err := dec.Decode(&e); err != nil {
			return fmt.Errorf("read the test stream: %w", err)
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "output", "build-output":
			output[key] = append(output[key], e.Output)
			if e.Action == "build-output" {
				fmt.Print(e.Output)
			}
		case "skip":
			if e.Test != "" {
				skipped = append(skipped, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(output[key])))
			}
			delete(output, key)
		case "pass":
			if e.Test != "" {
				passed++
			} else {
				fmt.Printf("ok   %-70s %6.1fs\n", e.Package, e.Elapsed)
			}
			delete(output, key)
		case "fail":
			if e.Test != "" {
				failed++
			} else {
				fmt.Printf("FAIL %-70s %6.1fs\n", e.Package, e.Elapsed)
			}
			fmt.Print(strings.Join(output[key], ""))
			delete(output, key)
		}
	}
	if len(skipped) > 0 {
		sort.Strings(skipped)
		fmt.Printf("\nleft out (%d):\n", len(skipped))
		for _, s := range skipped {
			fmt.Println("  " + s)
		}
	}
	fmt.Printf("\n%d passed, %d failed, %d skipped\n", passed, failed, len(skipped))
	return nil
}

// reason finds the text that the test gave to t.Skip among its output lines.
func reason(lines []string) string {
	for _, l := range lines {
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "=== ") || strings.HasPrefix(l, "--- ") {
			continue
		}
		if _, text, ok := strings.Cut(l, ".go:"); ok {
			if _, text, ok := strings.Cut(text, ": "); ok {
				return text
			}
		}
		return l
	}
	return "no reason given"
}
