package box

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
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
// those that were started too shortly before a crash to be recorded; and the
// shims, which run a program of the cluster's own directory.
func (d Dir) Processes() []Process {
	var recorded, alive []Process
	if text, err := os.ReadFile(d.processFile()); err == nil {
		_ = json.Unmarshal(text, &recorded) // what a crash left is not worth an error
	}
	known := map[int]bool{}
	for _, p := range recorded {
		if p.Alive() {
			alive, known[p.PID] = append(alive, p), true
		}
	}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || known[pid] {
			continue
		}
		role, node := d.roleOf(pid)
		if role == "" {
			continue
		}
		if p, err := NewProcess(role, node, pid); err == nil && p.Alive() {
			alive = append(alive, p)
		}
	}
	return alive
}

// roleOf tells a process of the cluster by its program and its arguments; it is
// empty for others.
func (d Dir) roleOf(pid int) (role, node string) {
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return "", ""
	}
	switch {
	case strings.HasPrefix(program, d.Programs()+"/viaduct-shim"):
		return RoleShim, d.nodeOf(pid)
	case strings.HasPrefix(program, d.Programs()+"/viaduct-supervisor"):
		return RoleSupervisor, ""
	}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	args := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	if len(args) == 4 && args[0] == "viaduct" && args[1] == RoleNode && args[2] == string(d) {
		return RoleNode, args[3]
	}
	return "", ""
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
