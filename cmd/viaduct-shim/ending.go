//go:build linux && cgo

package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"viaduct.dev/viaduct/internal/agent/runtime"
)

// end tells every container to end, and waits until those that listen have, or
// until the caller goes away.
func (p *pod) end(conn *net.UnixConn) {
	p.mu.Lock()
	var running []*container
	var pids []int
	for _, c := range p.containers {
		if c.status.State == runtime.StateRunning {
			running, pids = append(running, c), append(pids, c.status.PID)
		}
	}
	p.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		var b [1]byte
		conn.Read(b[:]) // the caller never writes more: this returns at its end
		close(gone)
	}()
	var wait []*container
	for i, c := range running {
		sig := c.cfg.StopSignal
		if sig == 0 {
			sig = syscall.SIGTERM
		}
		listens := p.cfg.HostPID || hears(pids[i], sig)
		if c.lc.Signal(sig) == nil && listens {
			wait = append(wait, c)
		}
	}
	for _, c := range wait {
		select {
		case <-c.ended:
		case <-gone:
			return
		}
	}
}

// hears says whether a process that is the first of its PID namespace takes
// notice of a signal: the kernel keeps from it what it has neither a handler for
// nor blocks in order to wait for it.
func hears(pid int, sig syscall.Signal) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		name, mask, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name != "SigCgt" && name != "SigBlk" {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
		if err == nil && set&(1<<(uint(sig)-1)) != 0 {
			return true
		}
	}
	return false
}
