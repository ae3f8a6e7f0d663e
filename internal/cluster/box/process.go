package box

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The roles of a box's processes.
const (
	RoleSupervisor = "supervisor"
	RoleNode       = "node"
	RoleShim       = "shim"
)

// Process is one process of a box. The start time tells it from a later
// process with the same number.
type Process struct {
	Role  string `json:"role"`
	Node  string `json:"node,omitempty"`
	PID   int    `json:"pid"`
	Start string `json:"start,omitempty"` // clock ticks since boot
}

// NewProcess describes a process that runs now.
func NewProcess(role, node string, pid int) (Process, error) {
	start, _, err := stat(pid)
	if err != nil {
		return Process{}, fmt.Errorf("describe process %d: %w", pid, err)
	}
	return Process{Role: role, Node: node, PID: pid, Start: start}, nil
}

// Alive says whether it is still that process, and more than a zombie.
func (p Process) Alive() bool {
	start, state, err := stat(p.PID)
	return err == nil && start == p.Start && state != "Z" && state != "X"
}

// Kill kills it if it is still that process.
func (p Process) Kill() {
	// A descriptor cannot come to mean another process between check and kill.
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if p.Alive() {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}

// SaveProcesses records the supervisor and the nodes.
func (d Dir) SaveProcesses(all []Process) error {
	text, err := json.Marshal(all)
	if err == nil {
		err = ReplaceFile(d.processFile(), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("record the processes: %w", err)
	}
	return nil
}

// Processes are those of the cluster that are alive: the recorded ones, and
// the shims, which run a program of the cluster's own directory.
func (d Dir) Processes() []Process {
	var recorded, alive []Process
	if text, err := os.ReadFile(d.processFile()); err == nil {
		_ = json.Unmarshal(text, &recorded) // what a crash left is not worth an error
	}
	for _, p := range recorded {
		if p.Alive() {
			alive = append(alive, p)
		}
	}
	return append(alive, d.shims()...)
}

func (d Dir) shims() []Process {
	var found []Process
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(target, d.Programs()+"/viaduct-shim") {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
		if p, err := NewProcess(RoleShim, d.nodeOf(pid), pid); err == nil {
			found = append(found, p)
		}
	}
	return found
}

// nodeOf tells a shim's node from its command line, which names its directory.
func (d Dir) nodeOf(pid int) string {
	args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	_, rest, found := strings.Cut(string(args), d.path("nodes")+"/")
	if !found {
		return ""
	}
	end := strings.IndexAny(rest, "/\x00")
	if end < 0 {
		return rest
	}
	return rest[:end]
}

// stat reads a process's start time and state (proc(5), fields 22 and 3).
func stat(pid int) (start, state string, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", "", err
	}
	// The second field is the program's name, which may hold anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 20 {
		return "", "", fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	return fields[19], fields[0], nil
}
