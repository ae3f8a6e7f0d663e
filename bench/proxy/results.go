package main

import (
	"fmt"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"viaduct.dev/viaduct/bench/report"
)

// results are the figures of all contenders at all sizes.
type results struct {
	gate gate
	runs []*entry
}

type entry struct {
	size      int
	api, name string
	figures
}

func (r *results) find(size int, name string) *figures {
	for _, x := range r.runs {
		if x.size == size && x.name == name {
			return &x.figures
		}
	}
	return &figures{}
}

func (r *results) of(size int, api, name string) *figures {
	for _, x := range r.runs {
		if x.size == size && x.name == name {
			return &x.figures
		}
	}
	x := &entry{size: size, api: api, name: name}
	r.runs = append(r.runs, x)
	return &x.figures
}

// latest tells the round that has just ended, in short.
func (f *figures) latest() string {
	if f.failed != "" {
		return f.failed
	}
	s := ""
	if n := len(f.start); n > 0 {
		s += fmt.Sprintf("start %.2f s", f.start[n-1])
	}
	if len(f.spaced) > 0 {
		s += fmt.Sprintf(", update p50 %.2f ms, churned %.2f ms", quantile(reach(f.spaced), 0.5), quantile(reach(f.churned), 0.5))
	}
	if n := len(f.memory); n > 0 {
		s += fmt.Sprintf(", %.0f MiB", f.memory[n-1].anonymous)
	}
	if n := len(f.restart); n > 0 {
		s += fmt.Sprintf(", restart %.2f s (%.0f transactions when nothing had changed)", f.restart[n-1], f.writes[n-1])
	}
	if n := len(f.pod); n > 0 {
		s += fmt.Sprintf(", connect x%.3f", ratio(f.pod[n-1].through, f.pod[n-1].direct, 0.5))
	}
	return s
}

// quantile of samples in any order; 0 of none.
func quantile(samples []float64, q float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(samples))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

func ratio(a, b []float64, q float64) float64 {
	if d := quantile(b, q); d != 0 {
		return quantile(a, q) / d
	}
	return 0
}

func each[T any](all []T, of func(T) float64) []float64 {
	var out []float64
	for _, x := range all {
		out = append(out, of(x))
	}
	return out
}

func reach(all []update) []float64 {
	return each(all, func(u update) float64 { return ms(u.reach) })
}

func put(all []update) []float64 { return each(all, func(u update) float64 { return ms(u.put) }) }

// afterPut is what was left to wait when the PUT had returned.
func afterPut(all []update) []float64 {
	return each(all, func(u update) float64 { return ms(u.reach - u.put) })
}

// write prints two tables and keeps the second: everything that was measured,
// and the figures that have a goal.
func (r *results) write(out string) error {
	r.tell()
	return report.Write(os.Stdout, out, "proxy", r.rows())
}

// tell prints everything, one column for each contender at each size.
func (r *results) tell() {
	tw := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(what string, of func(*entry) string) {
		fmt.Fprint(tw, what, "\t")
		for _, x := range r.runs {
			fmt.Fprint(tw, of(x), "\t")
		}
		fmt.Fprintln(tw)
	}
	spread := func(format string, samples []float64) string {
		if len(samples) == 0 {
			return "-"
		}
		s := slices.Sorted(slices.Values(samples))
		return fmt.Sprintf(format+" ("+format+".."+format+")", quantile(s, 0.5), s[0], s[len(s)-1])
	}
	quantiles := func(samples []float64) string {
		if len(samples) == 0 {
			return "-"
		}
		return fmt.Sprintf("%.2f / %.2f", quantile(samples, 0.5), quantile(samples, 0.99))
	}
	line("", func(x *entry) string { return x.name })
	line("Services x 10", func(x *entry) string { return fmt.Sprint(x.size) })
	line("API", func(x *entry) string { return x.api })
	line("not finished", func(x *entry) string { return x.failed })
	line("start -> all VIPs answer, s", func(x *entry) string { return spread("%.2f", x.start) })
	line("PUT alone, ms p50 / p99", func(x *entry) string { return quantiles(put(x.spaced)) })
	line("PUT -> reached, ms p50 / p99", func(x *entry) string { return quantiles(reach(x.spaced)) })
	line("of that after the PUT returned", func(x *entry) string { return quantiles(afterPut(x.spaced)) })
	line(fmt.Sprintf("the same with %d other changes/s", churnRate), func(x *entry) string { return quantiles(reach(x.churned)) })
	line("PUT alone then, ms p50 / p99", func(x *entry) string { return quantiles(put(x.churned)) })
	line("updates timed, spaced + churn", func(x *entry) string { return fmt.Sprintf("%d + %d", len(x.spaced), len(x.churned)) })
	line("CPU ms per change, spaced", func(x *entry) string { return spread("%.2f", x.cpu) })
	line("CPU ms per change, under churn", func(x *entry) string { return spread("%.2f", x.cpuChurn) })
	line("anonymous RSS, MiB", func(x *entry) string {
		return spread("%.1f", each(x.memory, func(m memory) float64 { return m.anonymous }))
	})
	line("file pages, MiB", func(x *entry) string {
		return spread("%.1f", each(x.memory, func(m memory) float64 { return m.file }))
	})
	line("kernel memory, MiB", func(x *entry) string {
		return spread("%.1f", each(x.memory, func(m memory) float64 { return m.kernel }))
	})
	line("restart -> /healthz says yes, s", func(x *entry) string { return spread("%.2f", x.ready) })
	line("transactions of that restart", func(x *entry) string { return spread("%.0f", x.writes) })
	line("restart -> change made meanwhile reached, s", func(x *entry) string { return spread("%.2f", x.restart) })
	for _, place := range []struct {
		name string
		of   func(*entry) []connects
	}{
		{"pod", func(x *entry) []connects { return x.pod }},
		{"node", func(x *entry) []connects { return x.node }},
	} {
		line(place.name+": connect+close direct, us p50 / p99", func(x *entry) string { return quantiles(pool(place.of(x), direct)) })
		line(place.name+": connect+close VIP, us p50 / p99", func(x *entry) string { return quantiles(pool(place.of(x), through)) })
		line(place.name+": ratio of p50", func(x *entry) string { return spread("%.3f", ratios(place.of(x), 0.5)) })
		line(place.name+": ratio of p99", func(x *entry) string { return spread("%.2f", ratios(place.of(x), 0.99)) })
		line(place.name+": connect alone, direct, us p50", func(x *entry) string {
			return fmt.Sprintf("%.1f", quantile(pool(place.of(x), func(c connects) []float64 { return c.directOpen }), 0.5))
		})
		line(place.name+": connect alone, VIP, us p50", func(x *entry) string {
			return fmt.Sprintf("%.1f", quantile(pool(place.of(x), func(c connects) []float64 { return c.throughOpen }), 0.5))
		})
	}
	tw.Flush()
	fmt.Println(r.gate.String())
	fmt.Println(time.Now().UTC().Format("measured on 2006-01-02 at 15:04 UTC"))
	fmt.Println()
}

func direct(c connects) []float64  { return c.direct }
func through(c connects) []float64 { return c.through }

func pool(rounds []connects, of func(connects) []float64) []float64 {
	var all []float64
	for _, c := range rounds {
		all = append(all, of(c)...)
	}
	return all
}

// ratios are those of the rounds, whose pairs were made in turn.
func ratios(rounds []connects, q float64) []float64 {
	return each(rounds, func(c connects) float64 { return ratio(c.through, c.direct, q) })
}
