package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"time"
)

// gate lets a sample begin only when the machine has been quiet for a moment.
type gate struct {
	patience       time.Duration // a sample begins after this, quiet or not
	quiet, unquiet int           // how many began so
}

const (
	gateWindow = 60 * time.Millisecond
	gateBusy   = 0.2  // of all CPUs
	tick       = 0.01 // seconds of /proc/stat's unit
)

// wait returns when less than gateBusy of the CPUs was used in the last window.
func (g *gate) wait() error {
	deadline := time.Now().Add(g.patience)
	for {
		before, err := busySeconds()
		if err != nil {
			return err
		}
		time.Sleep(gateWindow)
		after, err := busySeconds()
		if err != nil {
			return err
		}
		if after-before < gateBusy*gateWindow.Seconds()*float64(runtime.NumCPU()) {
			g.quiet++
			return nil
		}
		if time.Now().After(deadline) {
			g.unquiet++
			return nil
		}
	}
}

func (g *gate) String() string {
	return fmt.Sprintf("%d of %d samples began on a quiet machine", g.quiet, g.quiet+g.unquiet)
}

// busySeconds is what all CPUs have worked since the boot.
func busySeconds() (float64, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	var user, nice, system, idle, wait, irq, softirq, steal float64
	if _, err := fmt.Sscanf(string(line), "cpu %f %f %f %f %f %f %f %f", &user, &nice, &system, &idle, &wait, &irq, &softirq, &steal); err != nil {
		return 0, fmt.Errorf("read /proc/stat: %w", err)
	}
	return (user + nice + system + irq + softirq + steal) * tick, nil
}
