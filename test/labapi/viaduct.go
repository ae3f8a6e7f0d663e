package labapi

import (
	"context"
	"fmt"
	"net"
	"path/filepath"

	"viaduct.dev/viaduct/internal/apiserver"
	"viaduct.dev/viaduct/internal/lab"
)

// Viaduct runs this repository's API server in this process; its sockets are in
// the namespace. What it stores is in dir, and is there again the next time.
func Viaduct(ctx context.Context, ns *lab.Namespace, dir string, o Options) (*API, error) {
	k, err := makeKeys(dir, o)
	if err != nil {
		return nil, fmt.Errorf("labapi: %w", err)
	}
	l, err := ns.Listen(ctx, "tcp", o.Address.String())
	if err != nil {
		return nil, fmt.Errorf("labapi: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	server, err := apiserver.New(ctx, apiserver.Config{
		DataDir: filepath.Join(dir, "data"), Listeners: []net.Listener{l},
		ServingCert: k.serving.CertPEM, ServingKey: k.serving.KeyPEM, ClientCA: k.ca.CertPEM(),
		ServiceCIDRs: o.ServiceCIDRs, Log: logger(o),
	})
	if err != nil {
		cancel()
		l.Close()
		return nil, fmt.Errorf("labapi: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	if err := awaitReady(ctx, server.Ready(), ended); err != nil {
		cancel()
		return nil, fmt.Errorf("labapi: %w", err)
	}
	return &API{Kubeconfig: k.kubeconfig, ns: ns, stop: func() error {
		cancel()
		return <-ended
	}}, nil
}
