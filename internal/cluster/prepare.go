package cluster

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"viaduct.dev/viaduct/internal/agent/runtime/builtin"
	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/cluster/fabric"
	"viaduct.dev/viaduct/internal/images"
	"viaduct.dev/viaduct/internal/pki"
)

// preparation makes what a cluster needs before its roles can run. `up` does so
// itself: it has all of Viaduct loaded already, and then it ends.
type preparation struct {
	o       UpOptions
	log     *slog.Logger
	network *fabric.Fabric
	said    sync.Mutex
}

// NewLogger is how the processes of a box log: a file is for machines.
func NewLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewJSONHandler(w, nil)) }

// openLog opens the log; one that has grown large is set aside first.
func openLog(dir box.Dir) (*os.File, error) {
	const large = 32 << 20
	if info, err := os.Stat(dir.Log()); err == nil && info.Size() > large {
		_ = os.Rename(dir.Log(), dir.Log()+".old")
	}
	return os.OpenFile(dir.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// first makes what the nodes' processes need to start: their namespaces.
func (p *preparation) first() error {
	return p.step("network namespaces", func() (err error) {
		p.network, err = fabric.Open(p.o.Dir, p.o.Spec)
		return err
	})
}

// rest makes what they need when they have started.
func (p *preparation) rest(ctx context.Context) error {
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return p.step("network", p.network.Cable) })
	all.Go(func() error { return p.step("certificates", func() error { return certificates(p.o.Dir, p.o.Spec) }) })
	all.Go(func() error { return p.step("toolbox image", func() error { return toolbox(ctx, p.o.Dir) }) })
	return all.Wait()
}

// step does one thing and tells how long it took.
func (p *preparation) step(name string, do func() error) error {
	begin := time.Now()
	if err := do(); err != nil {
		return err
	}
	took := time.Since(begin)
	p.log.Info("step", "step", name, "took", took.String(), "since", time.Since(p.o.Began).String())
	p.said.Lock()
	defer p.said.Unlock()
	p.o.report(name, took)
	return nil
}

// endPredecessors ends what a dead supervisor left running; containers stay.
func endPredecessors(ctx context.Context, dir box.Dir) error {
	for _, p := range dir.Processes() {
		if p.Role == box.RoleShim {
			continue
		}
		for p.Kill(); p.Alive(); {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(2 * time.Millisecond):
			}
		}
	}
	return nil
}

// certificates makes whatever certificate the cluster needs, and the kubeconfig.
func certificates(dir box.Dir, spec box.Spec) error {
	ca, err := pki.Open(dir.PKI())
	if err != nil {
		return err
	}
	var all errgroup.Group
	ensure := func(name string, r pki.Request) {
		all.Go(func() error { _, err := ca.Ensure(name, r); return err })
	}
	ensure("apiserver", pki.APIServer(spec.NodeAddresses(1), spec.ServiceCIDRs, spec.Domain))
	ensure("apiserver-agent-client", pki.Client("kube-apiserver", "system:masters"))
	for i, name := range spec.NodeNames() {
		ensure(name, pki.Node(name))
		ensure(name+"-serving", pki.Agent(name, spec.NodeAddresses(i+1)))
	}
	all.Go(func() error {
		admin, err := ca.Ensure("admin", pki.Client("viaduct-admin", "system:masters"))
		if err != nil {
			return err
		}
		server := fmt.Sprintf("https://127.0.0.1:%d", spec.APIPort)
		kubeconfig, err := pki.Kubeconfig("viaduct-"+spec.Name, server, ca.CertPEM(), admin)
		if err != nil {
			return err
		}
		if err := box.ReplaceFile(dir.Kubeconfig(), kubeconfig, 0o600); err != nil {
			return fmt.Errorf("write the kubeconfig: %w", err)
		}
		return nil
	})
	return all.Wait()
}

func toolbox(ctx context.Context, dir box.Dir) error {
	store, err := images.Open(dir.Images())
	if err != nil {
		return err
	}
	program, err := builtin.Toolbox()
	if err != nil {
		return err
	}
	return store.EnsureToolbox(ctx, program)
}
