package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/lab"
)

// hidden are directories of the host's resolvers that a C library asks before,
// or instead of, what resolv.conf says.
var hidden = []string{"/run/nscd", "/var/run/nscd", "/run/systemd/resolve"}

// Shell replaces this process by a program of the host inside a node's network,
// with the cluster's DNS. It returns only if it fails.
func Shell(dir box.Dir, node string, args []string) error {
	if os.Geteuid() != 0 {
		return errors.New("shell: entering a node's network needs root")
	}
	spec, err := dir.Load()
	if err != nil {
		return fmt.Errorf("shell: %w", err)
	}
	if i, err := box.NodeNumber(node); err != nil || i > spec.Nodes {
		return fmt.Errorf("shell: cluster %s has no node %s; its nodes are %s", spec.Name, node, strings.Join(spec.NodeNames(), ", "))
	}
	program, err := exec.LookPath(args[0])
	if err != nil {
		return fmt.Errorf("shell: %w", err)
	}
	ns, err := lab.Open(box.NodeNamespace(spec.Name, node))
	if err != nil {
		return fmt.Errorf("shell: the cluster is not running; `viaduct up` resumes it: %w", err)
	}
	// The program gets the namespaces of the thread that starts it.
	runtime.LockOSThread()
	if err := unix.Setns(int(ns.File().Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("shell: enter the network of %s: %w", node, err)
	}
	if err := privateDNS(dir, spec); err != nil {
		return fmt.Errorf("shell: %w", err)
	}
	err = unix.Exec(program, args, os.Environ())
	return fmt.Errorf("shell: start %s: %w", program, err)
}

// privateDNS gives this thread a mount namespace in which names are looked up
// in the cluster.
func privateDNS(dir box.Dir, spec box.Spec) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make the mount namespace private: %w", err)
	}
	scratch := dir.Shell()
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return err
	}
	for _, d := range append([]string{scratch}, hidden...) {
		if info, err := os.Stat(d); err != nil || !info.IsDir() {
			continue
		}
		if err := unix.Mount("tmpfs", d, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=256k"); err != nil {
			return fmt.Errorf("hide %s: %w", d, err)
		}
	}
	c := cover{scratch}
	if err := c.file("/etc/resolv.conf", resolvConf(spec)); err != nil {
		return err
	}
	nsswitch, err := os.ReadFile("/etc/nsswitch.conf")
	if errors.Is(err, os.ErrNotExist) {
		return nil // the C library's default asks files and DNS
	}
	if err != nil {
		return err
	}
	return c.file("/etc/nsswitch.conf", hostsByDNS(nsswitch))
}

// resolvConf is what a Pod with the policy ClusterFirst has, too.
func resolvConf(spec box.Spec) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "search %s\n", strings.Join(spec.SearchDomains(), " "))
	for _, a := range spec.DNSAddresses() {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	b.WriteString("options ndots:5\n")
	return []byte(b.String())
}

var hostsLine = regexp.MustCompile(`(?m)^[ \t]*hosts:.*$`)

// hostsByDNS makes names come from /etc/hosts and DNS, and from nothing else.
func hostsByDNS(nsswitch []byte) []byte {
	const hosts = "hosts: files dns"
	if !hostsLine.Match(nsswitch) {
		return append(append(nsswitch, '\n'), hosts+"\n"...)
	}
	return hostsLine.ReplaceAll(nsswitch, []byte(hosts))
}
