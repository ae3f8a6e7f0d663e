package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"viaduct.dev/viaduct/test/labnet"
)

// contender is a proxy that is measured, by the name that it has in the output.
type contender struct {
	name string
	args []string // program and arguments
	// pause is what the timed updates are apart, so that none waits for the one
	// before: kube-proxy rests for a second after each.
	pause time.Duration
	// state is where it keeps what outlives it, if it does.
	state string
}

const ours, nft, ipt = "viaduct", "kube-proxy nftables", "kube-proxy iptables"

func contenders(viaduct, peers, scratch string) map[string]contender {
	kubeProxy := func(mode string) []string {
		return []string{
			filepath.Join(peers, "kube-proxy"), "--proxy-mode=" + mode, "--hostname-override=" + labnet.NodeName, "--cluster-cidr=" + labnet.PodCIDRs[0].String(),
			// Limits of conntrack are the machine's, not a namespace's.
			"--conntrack-max-per-core=0", "--conntrack-min=0", "--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
		}
	}
	state := filepath.Join(scratch, "viaduct-state")
	return map[string]contender{
		ours: {name: ours, pause: 150 * time.Millisecond, state: state, args: []string{
			viaduct, "proxy", "--hostname-override=" + labnet.NodeName, "--cluster-cidr=" + labnet.PodCIDRs[0].String(),
		}},
		nft: {name: nft, pause: 1100 * time.Millisecond, args: kubeProxy("nftables")},
		ipt: {name: ipt, pause: 1100 * time.Millisecond, args: kubeProxy("iptables")},
	}
}

// running is a contender's process, in control groups of its own by which its
// CPU time, that of its children and the kernel's memory for it are told.
type running struct {
	cmd    *exec.Cmd
	ended  chan error
	groups []string
	log    string
}

var cgroups = []string{"/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/memory"}

// begin starts the contender as on a machine that has never run it.
func (c contender) begin(n *network, kubeconfig, scratch string) (*running, time.Time, error) {
	if c.state != "" {
		if err := os.RemoveAll(c.state); err != nil {
			return nil, time.Time{}, err
		}
	}
	return c.start(n, kubeconfig, scratch)
}

// start begins the contender in the node's namespace. The time is that just
// before the process was made.
func (c contender) start(n *network, kubeconfig, scratch string) (*running, time.Time, error) {
	r := &running{ended: make(chan error, 1), log: filepath.Join(scratch, "proxy.log")}
	script := ""
	for _, root := range cgroups {
		dir := filepath.Join(root, fmt.Sprintf("viaduct-bench-%d", os.Getpid()))
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue // this machine has it elsewhere: the figure is left out
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			continue
		}
		r.groups = append(r.groups, dir)
		script += "echo $$ >" + filepath.Join(dir, "cgroup.procs") + "; "
	}
	out, err := os.Create(r.log)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer out.Close()
	args := append(c.args[:len(c.args):len(c.args)], "--kubeconfig="+kubeconfig)
	r.cmd = exec.Command("sh", append([]string{"-c", script + `exec "$@"`, "sh"}, args...)...)
	r.cmd.Stdout, r.cmd.Stderr = out, out
	begin := time.Now()
	if err := n.Node.Start(r.cmd); err != nil {
		return nil, begin, fmt.Errorf("start %s: %w", c.name, err)
	}
	go func() { r.ended <- r.cmd.Wait() }()
	return r, begin, nil
}

// stop ends the process; what it has put into the kernel stays.
func (r *running) stop() error {
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.ended: // a proxy that is told to end may say that it was
	case <-time.After(time.Minute):
		if err := r.cmd.Process.Kill(); err != nil {
			return err
		}
		<-r.ended
	}
	for _, g := range r.groups {
		// Children may take a moment to be gone.
		for range 50 {
			if err := os.Remove(g); err == nil || errors.Is(err, os.ErrNotExist) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}

// over says that the process has ended by itself.
func (r *running) over() error {
	select {
	case err := <-r.ended:
		r.ended <- err
		return fmt.Errorf("the proxy ended: %w; see %s", errors.Join(err, errors.New("exit")), r.log)
	default:
		return nil
	}
}
