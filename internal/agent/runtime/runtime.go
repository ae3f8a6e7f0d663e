package runtime

import (
	"context"
	"os"
	"syscall"
	"time"
)

// Runtime makes Pods and finds those that are alive.
type Runtime interface {
	// CreatePod makes the Pod's namespaces (network, IPC, UTS, mount) and what
	// holds them. No container runs yet. It fails if StateDir holds a live Pod.
	CreatePod(ctx context.Context, cfg PodConfig) (Pod, error)
	// OpenPod finds the Pod that an earlier CreatePod made in stateDir, possibly
	// by another process. It returns ErrPodGone when nothing holds it any more;
	// CleanUp then removes what was left.
	OpenPod(ctx context.Context, stateDir string) (Pod, error)
	// CleanUp removes whatever a Pod that is gone left behind: processes in its
	// cgroups, the cgroups, its files in stateDir. It is idempotent.
	CleanUp(ctx context.Context, stateDir string) error
}

// Pod is one Pod on this node. Its methods may be called concurrently.
type Pod interface {
	Config() PodConfig
	// NetNS is a path that opens the Pod's network namespace (/proc/PID/ns/net).
	// With HostNetwork it is the agent's own.
	NetNS() string
	// StartContainer creates and starts a container; it returns once the
	// program has been executed, or with the reason why it could not be.
	StartContainer(ctx context.Context, cfg ContainerConfig) (ContainerStatus, error)
	// Containers lists every container that was started and not removed.
	Containers(ctx context.Context) ([]ContainerStatus, error)
	// Signal sends a signal to a container's first process. A container that
	// has ended is no error.
	Signal(ctx context.Context, id string, sig syscall.Signal) error
	// RemoveContainer forgets an ended container and removes its files, logs
	// excepted. A container that still runs is killed first.
	RemoveContainer(ctx context.Context, id string) error
	// Exec runs one more program in a running container and waits for its end.
	Exec(ctx context.Context, id string, cfg ExecConfig) (exitCode int, err error)
	// Attach joins the streams of a running container's first process until it
	// ends (nil) or ctx does. Input reaches a container that was started with Stdin.
	Attach(ctx context.Context, id string, streams Streams) error
	// Events delivers the status of a container each time that it changes. It
	// is closed when the Pod is gone (Stop, or the death of what holds it).
	Events() <-chan ContainerStatus
	// Stop kills what still runs, removes cgroups and mounts, and ends the Pod.
	Stop(ctx context.Context) error
}

// PodConfig describes a Pod's sandbox.
type PodConfig struct {
	UID, Namespace, Name string

	Hostname string
	// StateDir is the Pod's own directory, absolute. The runtime keeps its files
	// under StateDir/runtime; the rest belongs to the agent.
	StateDir string
	// CgroupPath is the Pod's cgroup below each hierarchy's root, such as
	// /viaduct/<cluster>/<node>/pod<uid>.
	CgroupPath string
	// HostNetwork, HostPID and HostIPC keep the Pod in the node's namespaces.
	HostNetwork, HostPID, HostIPC bool
	Sysctls                       map[string]string
}

// ContainerConfig describes one run of one container.
type ContainerConfig struct {
	// ID is unique in its Pod: name and attempt, such as "web-0".
	ID      string
	Name    string
	Attempt int

	// Layers are the image's unpacked layers, lowest first, mounted together
	// read-only under a layer of the container's own.
	Layers []string

	Args       []string
	Env        []string // KEY=value
	WorkingDir string
	// User is the image's or the Pod's: "uid", "uid:gid", "name" or "name:group",
	// names being looked up in the image's own /etc/passwd and /etc/group.
	User               string
	SupplementalGroups []int64
	Mounts             []Mount
	Resources          Resources

	AddCapabilities, DropCapabilities []string // such as NET_ADMIN, or ALL
	Privileged                        bool
	ReadOnlyRootfs                    bool
	NoNewPrivileges                   bool

	// Stdin keeps standard input open for those who attach; StdinOnce until the
	// first of them has ended its own.
	Stdin, StdinOnce, TTY bool
	// StopSignal tells the first process to end where nobody says which; 0 is SIGTERM.
	StopSignal syscall.Signal
	// LogPath is where standard output and error go, in the CRI log format
	// (RFC 3339 time, stream, P or F, text).
	LogPath string
}

// Mount is a bind mount of a file or directory of the node into a container.
type Mount struct {
	HostPath, ContainerPath string
	// SubPath is what is mounted below HostPath, relative. No link leads out of
	// HostPath on the way there, even one that is put there at that moment.
	SubPath  string
	ReadOnly bool
}

// Resources are a container's limits; zero means none.
type Resources struct {
	CPUShares   uint64 // relative weight as in cgroup v1 (1024 = one CPU)
	CPUQuota    int64  // microseconds per CPUPeriod
	CPUPeriod   uint64 // microseconds
	MemoryLimit int64  // bytes
	PidsLimit   int64
	OOMScoreAdj int
}

// State is where a container is in its life.
type State string

// The states of a container.
const (
	StateRunning State = "running"
	StateExited  State = "exited"
)

// ContainerStatus is what is known of one run of a container.
type ContainerStatus struct {
	ID         string
	Name       string
	Attempt    int
	State      State
	PID        int // in the node's PID namespace; 0 once it has ended
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int // 128 + signal number for a program killed by a signal
	Signal     int // the signal that killed it, or 0
	OOMKilled  bool
}

// ExecConfig describes one more program in a running container.
type ExecConfig struct {
	Args []string
	Env  []string // added to the container's own
	TTY  bool
	Streams
}

// Streams are a caller's ends of a program's.
type Streams struct {
	// Stdin, Stdout and Stderr are passed as descriptors; nil means /dev/null.
	// With a terminal, Stderr is nil.
	Stdin, Stdout, Stderr *os.File
	// Resize delivers the terminal's size where there is one; it may be nil.
	Resize <-chan TerminalSize
}

// TerminalSize is a terminal's size in character cells.
type TerminalSize struct{ Width, Height uint16 }
