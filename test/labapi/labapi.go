// Package labapi runs a Kubernetes API inside a network namespace of the lab,
// for tests and benchmarks that want a proxy to watch a real one: Viaduct's own
// in this process, or the upstream kube-apiserver with its etcd.
//
// The one idea: whoever starts it gets the same handle, so that the same test
// runs against both.
//
//	api, err := labapi.Viaduct(ctx, ns, dir, labapi.Options{Address: addr, ServiceCIDRs: cidrs})
//	client, err := kubernetes.NewForConfig(api.Client())
//	exec.Command("viaduct", "proxy", "--kubeconfig", api.Kubeconfig)
package labapi

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"viaduct.dev/viaduct/internal/lab"
	"viaduct.dev/viaduct/internal/pki"
)

// Options say what API is to be.
type Options struct {
	// Address is where it is served: one of the namespace's own.
	Address netip.AddrPort
	// Names are further addresses at which clients may know it; the first one is
	// in the kubeconfig when Address is unspecified.
	Names []netip.Addr
	// ServiceCIDRs are the ranges of cluster IPs, the primary family first.
	ServiceCIDRs []netip.Prefix
	// Log takes what Viaduct's own API says; nil means nobody.
	Log *slog.Logger
}

// API is an API that answers.
type API struct {
	// Kubeconfig is the path of a file by which an administrator reaches it from
	// any namespace that has a route to its address.
	Kubeconfig string
	// Pids are of the processes that were started for it; none when it is ours.
	Pids []int

	ns   *lab.Namespace
	stop func() error
}

// Stop ends it, and waits until it has ended.
func (a *API) Stop() error { return a.stop() }

// Client is for clients in this process, whose connections begin in the API's
// namespace.
func (a *API) Client() (*rest.Config, error) {
	c, err := clientcmd.BuildConfigFromFlags("", a.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", a.Kubeconfig, err)
	}
	c.Dial = a.ns.DialContext
	c.QPS = -1
	c.WarningHandler = rest.NoWarnings{}
	c.ContentType = runtime.ContentTypeProtobuf
	c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	return c, nil
}

// keys are what the API serves with, and what its administrator has.
type keys struct {
	ca         *pki.Authority
	serving    pki.Certificate
	kubeconfig string
}

func makeKeys(dir string, o Options) (keys, error) {
	ca, err := pki.Open(filepath.Join(dir, "pki"))
	if err != nil {
		return keys{}, err
	}
	serving, err := ca.Ensure("apiserver", pki.APIServer(append([]netip.Addr{o.Address.Addr()}, o.Names...), o.ServiceCIDRs, "cluster.local"))
	if err != nil {
		return keys{}, err
	}
	admin, err := ca.Ensure("admin", pki.Client("admin", "system:masters"))
	if err != nil {
		return keys{}, err
	}
	at := o.Address
	if at.Addr().IsUnspecified() && len(o.Names) > 0 {
		at = netip.AddrPortFrom(o.Names[0], at.Port())
	}
	text, err := pki.Kubeconfig("lab", "https://"+at.String(), ca.CertPEM(), admin)
	if err != nil {
		return keys{}, err
	}
	path := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return keys{}, err
	}
	return keys{ca: ca, serving: serving, kubeconfig: path}, nil
}

// logger is where what is said goes.
func logger(o Options) *slog.Logger {
	if o.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Log
}

// awaitReady waits for what comes first: that it is ready, its end, or ours.
func awaitReady(ctx context.Context, ready <-chan struct{}, ended <-chan error) error {
	select {
	case <-ready:
		return nil
	case err := <-ended:
		if err == nil {
			err = fmt.Errorf("it ended before it was ready")
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
