package agent

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// probeGrace is what a program that was not given an initial delay has before a
// failure counts. Hardly one is there the moment that it was started; upstream
// tells it the same by probing first at some moment of the first period.
const probeGrace = time.Second

// probing is when a probe is tried, and what its answers come to:
//
//	started                 first       first+period
//	   |  . . .   .    .      |              |             tries; dots are early ones
//	   +- initialDelaySeconds-+- periodSeconds -+
//
// The tries that count begin when initialDelaySeconds have passed since the
// container started, or after probeGrace where none are asked for, and come once
// in periodSeconds. failureThreshold of them in a row mean no, successThreshold
// of them yes.
//
// Without an initial delay a readiness or startup probe is tried early too, a few
// times within the grace, so that a rollout goes on when the program is there and
// not a period later. An early try can only say yes: its failure counts nowhere
// and is told nobody.
type probing struct {
	first      time.Time // of the tries that count
	period     time.Duration
	yes, no    int  // successThreshold and failureThreshold
	ok         bool // the verdict that it begins with
	oneVerdict bool // a startup probe ends with its first verdict, which may be ok itself
	early      bool
}

// newProbing reads a probe of a container that was started then.
func newProbing(p *corev1.Probe, kind string, started time.Time, ok bool) probing {
	s := probing{
		period: time.Duration(p.PeriodSeconds) * time.Second,
		yes:    max(1, int(p.SuccessThreshold)), no: int(p.FailureThreshold),
		ok: ok, oneVerdict: kind == "Startup",
	}
	if p.PeriodSeconds <= 0 {
		s.period = 10 * time.Second
	}
	if s.no <= 0 {
		s.no = 3
	}
	s.first = started.Add(time.Duration(p.InitialDelaySeconds) * time.Second)
	if p.InitialDelaySeconds <= 0 {
		s.first = started.Add(min(s.period, probeGrace))
		s.early = kind != "Liveness" && s.yes == 1
	}
	return s
}

// run tries until ctx ends. failed hears of each failure that counts, verdict of
// each change of mind.
func (s probing) run(ctx context.Context, try func(context.Context) error, failed func(error), verdict func(ok bool)) {
	if s.early && !s.ok && s.tryEarly(ctx, try) {
		s.ok = true
		verdict(true)
		if s.oneVerdict {
			return
		}
	}
	good, bad := 0, 0
	for next := s.first; pause(ctx, time.Until(next)) == nil; {
		now := time.Now()
		err := try(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			good, bad = good+1, 0
		} else {
			good, bad = 0, bad+1
			failed(err)
		}
		if yes := good >= s.yes; yes && (!s.ok || s.oneVerdict) || bad >= s.no && (s.ok || s.oneVerdict) {
			s.ok = yes
			verdict(yes)
			if s.oneVerdict {
				return
			}
		}
		next = nextTry(next, now, s.period)
	}
}

// nextTry keeps to the period's beat, whatever a try takes; after a pause (an
// agent that came back, a try longer than the period) the beat begins anew.
func nextTry(was, now time.Time, period time.Duration) time.Time {
	if next := was.Add(period); next.After(now) {
		return next
	}
	return now.Add(period)
}

// tryEarly tries at growing distances until the first try that counts is due,
// and says whether one succeeded.
func (s probing) tryEarly(ctx context.Context, try func(context.Context) error) bool {
	ctx, cancel := context.WithDeadline(ctx, s.first)
	defer cancel()
	for quick := 5 * time.Millisecond; ctx.Err() == nil; quick = min(2*quick, 100*time.Millisecond) {
		if try(ctx) == nil && ctx.Err() == nil {
			return true
		}
		if pause(ctx, quick) != nil {
			return false
		}
	}
	return false
}
