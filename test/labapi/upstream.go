package labapi

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"

	"viaduct.dev/viaduct/internal/lab"
)

// upstreamStart is how long etcd and kube-apiserver are given to be ready, and
// upstreamEnd to end when they are asked to.
const (
	upstreamStart = 2 * time.Minute
	upstreamEnd   = 15 * time.Second
)

// Upstream runs etcd and kube-apiserver, both found in the directory binaries
// (bench/peers/build.sh makes them), in the namespace. What they store is in
// dir; etcd does not wait for the disk.
func Upstream(ctx context.Context, ns *lab.Namespace, binaries, dir string, o Options) (*API, error) {
	k, err := makeKeys(dir, o)
	if err != nil {
		return nil, fmt.Errorf("labapi: %w", err)
	}
	u := &upstream{ns: ns, dir: dir}
	// In this namespace nobody else is on the loopback.
	err = u.start(filepath.Join(binaries, "etcd"),
		"--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--log-level", "error", "--quota-backend-bytes", "8589934592")
	if err == nil {
		err = u.start(filepath.Join(binaries, "kube-apiserver"),
			"--etcd-servers", "http://127.0.0.1:2379",
			"--bind-address", o.Address.Addr().String(), "--secure-port", fmt.Sprint(o.Address.Port()),
			"--advertise-address", o.Address.Addr().String(), "--endpoint-reconciler-type", "none",
			"--service-cluster-ip-range", ranges(o.ServiceCIDRs),
			"--tls-cert-file", k.serving.CertFile, "--tls-private-key-file", k.serving.KeyFile, "--client-ca-file", k.ca.CertFile(),
			"--service-account-issuer", "https://kubernetes.default.svc",
			"--service-account-key-file", k.serving.KeyFile, "--service-account-signing-key-file", k.serving.KeyFile,
			"--authorization-mode", "AlwaysAllow", "--disable-admission-plugins", "ServiceAccount", "--enable-priority-and-fairness=false")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("labapi: %w", err), u.stop())
	}
	api := &API{Kubeconfig: k.kubeconfig, ns: ns, stop: u.stop}
	for _, p := range u.processes {
		api.Pids = append(api.Pids, p.cmd.Process.Pid)
	}
	if err := u.await(ctx, api); err != nil {
		return nil, errors.Join(fmt.Errorf("labapi: %w", err), u.stop())
	}
	return api, nil
}

func ranges(prefixes []netip.Prefix) string {
	var all []string
	for _, p := range prefixes {
		all = append(all, p.String())
	}
	return strings.Join(all, ",")
}

// upstream is the programs in the order in which they were started.
type upstream struct {
	ns        *lab.Namespace
	dir       string
	processes []*process
}

type process struct {
	name  string
	log   string
	cmd   *exec.Cmd
	ended chan error
}

func (u *upstream) start(path string, args ...string) error {
	p := &process{name: filepath.Base(path), cmd: exec.Command(path, args...), ended: make(chan error, 1)}
	p.log = filepath.Join(u.dir, p.name+".log")
	out, err := os.Create(p.log)
	if err != nil {
		return err
	}
	defer out.Close()
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = out, out, u.dir
	if err := u.ns.Start(p.cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	u.processes = append(u.processes, p)
	return nil
}

// await waits until the API says that it is ready.
func (u *upstream) await(ctx context.Context, api *API) error {
	ctx, cancel := context.WithTimeout(ctx, upstreamStart)
	defer cancel()
	cfg, err := api.Client()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err = client.RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the API is not ready: %w", err)
		}
		for _, p := range u.processes {
			select {
			case gone := <-p.ended:
				p.ended <- gone
				return fmt.Errorf("%s ended: %w; see %s", p.name, gone, p.log)
			default:
			}
		}
	}
}

// stop ends the programs, the last one first.
func (u *upstream) stop() error {
	var errs []error
	for i := len(u.processes) - 1; i >= 0; i-- {
		p := u.processes[i]
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.ended: // what it says of its end is of no use to anybody
		case <-time.After(upstreamEnd):
			errs = append(errs, p.cmd.Process.Kill())
			<-p.ended
		}
	}
	u.processes = nil
	return errors.Join(errs...)
}
