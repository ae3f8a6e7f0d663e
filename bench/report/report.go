// Package report is how benchmarks tell what they measured: a table for people
// and bench/results/NAME.json for machines.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// Row is one figure, ours beside a peer's where there is one.
type Row struct {
	Figure string  `json:"figure"` // what was measured
	Unit   string  `json:"unit"`
	Ours   float64 `json:"ours"` // the median
	Low    float64 `json:"low"`  // the smallest of the rounds
	High   float64 `json:"high"` // the largest of the rounds
	Peer   float64 `json:"peer,omitempty"`
	Ratio  float64 `json:"ratio,omitempty"` // ours / peer
	Goal   float64 `json:"goal,omitempty"`  // at most this
	// GoalRatio is what Ratio may at most be, where that is the goal.
	GoalRatio float64 `json:"goal_ratio,omitempty"`
	Met       bool    `json:"met"`
}

// AtMost makes a row of several rounds' samples with a goal not to be passed.
func AtMost(figure, unit string, goal float64, samples []float64) Row {
	return Quantile(figure, unit, 0.5, goal, samples)
}

// Quantile is AtMost of another quantile than the median. Without samples the
// row is empty.
func Quantile(figure, unit string, q, goal float64, samples []float64) Row {
	if len(samples) == 0 {
		return Row{Figure: figure, Unit: unit, Goal: goal}
	}
	s := slices.Clone(samples)
	slices.Sort(s)
	m := s[min(len(s)-1, int(q*float64(len(s))))]
	return Row{Figure: figure, Unit: unit, Ours: m, Low: s[0], High: s[len(s)-1], Goal: goal, Met: m <= goal}
}

// Beside puts the median of a peer's samples beside ours, if it has any.
func (r Row) Beside(peer []float64) Row {
	if len(peer) > 0 {
		s := slices.Clone(peer)
		slices.Sort(s)
		r.Peer = s[len(s)/2]
		r.Ratio = r.Ours / r.Peer
	}
	return r
}

// Share makes a row whose goal is a share of what a peer needs. Without a peer's
// figure the row is empty.
func Share(figure, unit string, goal, ours, peer float64) Row {
	if peer == 0 || ours == 0 {
		return Row{Figure: figure, Unit: unit}
	}
	return Row{Figure: figure, Unit: unit, Ours: ours, Low: ours, High: ours, Peer: peer, Ratio: ours / peer, GoalRatio: goal, Met: ours/peer <= goal}
}

// Write prints the rows and keeps them as results/NAME.json below dir.
func Write(w io.Writer, dir, name string, rows []Row) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "FIGURE\tMEDIAN\tLOW\tHIGH\tPEER\tRATIO\tGOAL\tMET")
	for _, r := range rows {
		peer, ratio, goal := "", "", ""
		if r.Peer != 0 {
			peer, ratio = fmt.Sprintf("%.3g", r.Peer), fmt.Sprintf("%.3g", r.Ratio)
		}
		if r.Goal != 0 {
			goal = fmt.Sprintf("<= %.4g", r.Goal)
		}
		if r.GoalRatio != 0 {
			goal = fmt.Sprintf("ratio <= %.3g", r.GoalRatio)
		}
		fmt.Fprintf(tw, "%s (%s)\t%.4g\t%.4g\t%.4g\t%s\t%s\t%s\t%v\n", r.Figure, r.Unit, r.Ours, r.Low, r.High, peer, ratio, goal, r.Met)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "results", name+".json")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
