package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestProbeKeepsToWhatItsFieldsSay(t *testing.T) {
	const never = time.Hour
	for _, c := range []struct {
		name  string
		kind  string
		probe corev1.Probe
		ok    bool          // the verdict before the first try
		age   time.Duration // of the container when the probe begins
		up    time.Duration // when the program answers, from the container's start
		down  time.Duration // when it does not any more; 0 is never
		want  string        // failures that count and verdicts, from the container's start
		first time.Duration // when it is tried first
	}{
		{name: "readiness is seen soon after the program is there", kind: "Readiness",
			probe: corev1.Probe{PeriodSeconds: 10}, up: 300 * time.Millisecond, want: "355ms yes"},
		{name: "readiness that comes after the grace is seen at the next period", kind: "Readiness",
			probe: corev1.Probe{PeriodSeconds: 2}, up: 1500 * time.Millisecond, want: "1s failed, 3s yes"},
		{name: "readiness waits for its initial delay", kind: "Readiness",
			probe: corev1.Probe{PeriodSeconds: 1, InitialDelaySeconds: 3}, want: "3s yes", first: 3 * time.Second},
		{name: "readiness counts its successes", kind: "Readiness",
			probe: corev1.Probe{PeriodSeconds: 2, SuccessThreshold: 3}, want: "5s yes", first: time.Second},
		{name: "readiness is lost after as many failures as it may have", kind: "Readiness",
			probe: corev1.Probe{PeriodSeconds: 2, FailureThreshold: 2}, ok: true, age: time.Minute, down: 61 * time.Second,
			want: "1m2s failed, 1m4s failed, 1m4s no, 1m6s failed", first: time.Minute},
		{name: "an agent that came back asks at once", kind: "Readiness",
			probe: corev1.Probe{PeriodSeconds: 10}, age: time.Minute, want: "1m0s yes", first: time.Minute},
		{name: "a startup probe's early failures do not count", kind: "Startup",
			probe: corev1.Probe{PeriodSeconds: 1, FailureThreshold: 3}, up: never, want: "1s failed, 2s failed, 3s failed, 3s no"},
		{name: "a startup probe that may fail once has the grace", kind: "Startup",
			probe: corev1.Probe{PeriodSeconds: 10, FailureThreshold: 1}, up: 900 * time.Millisecond, want: "955ms yes"},
		{name: "a startup probe is not tried before its initial delay", kind: "Startup",
			probe: corev1.Probe{PeriodSeconds: 5, InitialDelaySeconds: 7, FailureThreshold: 2}, up: never, want: "7s failed, 12s failed, 12s no", first: 7 * time.Second},
		{name: "a startup probe has three failures where nothing is said", kind: "Startup",
			probe: corev1.Probe{}, up: never, want: "1s failed, 11s failed, 21s failed, 21s no"},
		{name: "liveness is not tried early", kind: "Liveness",
			probe: corev1.Probe{PeriodSeconds: 10, FailureThreshold: 1}, ok: true, up: 800 * time.Millisecond, down: 5 * time.Second, want: "11s failed, 11s no, 21s failed", first: time.Second},
		{name: "liveness waits for its initial delay", kind: "Liveness",
			probe: corev1.Probe{PeriodSeconds: 1, InitialDelaySeconds: 4, FailureThreshold: 2}, ok: true, up: never, want: "4s failed, 5s failed, 5s no, 6s failed", first: 4 * time.Second},
		{name: "one success makes liveness count anew", kind: "Liveness",
			probe: corev1.Probe{PeriodSeconds: 1, FailureThreshold: 3}, ok: true, up: 2500 * time.Millisecond, want: "1s failed, 2s failed", first: time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				started := time.Now().Add(-c.age)
				at := func() time.Duration { return time.Since(started) }
				var told []string
				first := never
				try := func(context.Context) error {
					first = min(first, at())
					if at() < c.up || c.down != 0 && at() >= c.down {
						return errors.New("nobody there")
					}
					return nil
				}
				// Half a second after the last expectation, nothing else has come.
				last := strings.Fields(c.want[strings.LastIndex(c.want, ",")+1:])[0]
				until, err := time.ParseDuration(last)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), until-c.age+500*time.Millisecond)
				defer cancel()
				newProbing(&c.probe, c.kind, started, c.ok).run(ctx, try,
					func(error) { told = append(told, fmt.Sprintf("%s failed", at())) },
					func(ok bool) {
						told = append(told, fmt.Sprintf("%s %s", at(), map[bool]string{true: "yes", false: "no"}[ok]))
					})
				if got := strings.Join(told, ", "); got != c.want {
					t.Errorf("told %q, want %q", got, c.want)
				}
				if first != c.first {
					t.Errorf("tried first at %s, want %s", first, c.first)
				}
			})
		})
	}
}
