package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	"viaduct.dev/viaduct/internal/apiserver"
	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/cluster/link"
)

// api gives the way to the API: on the first node it starts the server, on the
// others it waits until that one answers.
func (p *process) api(ctx context.Context, all *errgroup.Group, w word) (*rest.Config, error) {
	if p.number == 1 {
		return p.serveAPI(ctx, all, w)
	}
	select {
	case <-p.connect:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	pki := p.dir.PKI()
	return &rest.Config{
		Host:      "https://" + p.spec.APIAddress().String(),
		UserAgent: "viaduct/" + p.name,
		QPS:       -1,
		TLSClientConfig: rest.TLSClientConfig{
			CAFile:   filepath.Join(pki, "ca.crt"),
			CertFile: filepath.Join(pki, p.name+".crt"),
			KeyFile:  filepath.Join(pki, p.name+".key"),
		},
		WarningHandler: rest.NoWarnings{},
		ContentConfig: rest.ContentConfig{
			ContentType:        runtime.ContentTypeProtobuf,
			AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON,
		},
	}, nil
}

func (p *process) serveAPI(ctx context.Context, all *errgroup.Group, w word) (*rest.Config, error) {
	begin := time.Now()
	if w.api == nil {
		return nil, errors.New("the supervisor gave no port for the API")
	}
	inside, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf(":%d", box.APIPort))
	if err != nil {
		return nil, fmt.Errorf("listen for the API: %w", err)
	}
	keys, err := p.readKeys("apiserver.crt", "apiserver.key", "ca.crt")
	if err != nil {
		return nil, err
	}
	agents, err := p.agentClient()
	if err != nil {
		return nil, err
	}
	server, err := apiserver.New(ctx, apiserver.Config{
		DataDir:              p.dir.Data(),
		Listeners:            []net.Listener{w.api, inside},
		ServingCert:          keys[0],
		ServingKey:           keys[1],
		ClientCA:             keys[2],
		AgentTLS:             agents,
		ServiceCIDRs:         p.spec.ServiceCIDRs,
		ServiceNodePortRange: utilnet.PortRange{Base: int(p.spec.NodePorts.First), Size: int(p.spec.NodePorts.Last) - int(p.spec.NodePorts.First) + 1},
		AdvertiseAddresses:   p.spec.NodeAddresses(1),
		AdvertisePort:        box.APIPort,
		Log:                  p.log.With("part", "apiserver"),
	})
	if err != nil {
		return nil, err
	}
	all.Go(func() error { return server.Run(ctx) })
	select {
	case <-server.Ready():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p.step("API", begin)
	_ = p.link.Send(link.Message{Serving: true}) // its end is seen by listen
	return server.ClientConfig(), nil
}

// readKeys reads files that the supervisor has made.
func (p *process) readKeys(names ...string) ([][]byte, error) {
	var all [][]byte
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(p.dir.PKI(), name))
		if err != nil {
			return nil, fmt.Errorf("read the certificates: %w", err)
		}
		all = append(all, text)
	}
	return all, nil
}

// agentClient is how the API is a client of the agents.
func (p *process) agentClient() (*tls.Config, error) {
	keys, err := p.readKeys("apiserver-agent-client.crt", "apiserver-agent-client.key", "ca.crt")
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(keys[0], keys[1])
	if err != nil {
		return nil, fmt.Errorf("read the certificates: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(keys[2])
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}
