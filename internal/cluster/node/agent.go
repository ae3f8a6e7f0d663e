package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"path"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	kubernetesversion "k8s.io/component-base/version"

	"viaduct.dev/viaduct/internal/agent"
	"viaduct.dev/viaduct/internal/agent/runtime/builtin"
	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/cluster/control"
	"viaduct.dev/viaduct/internal/images"
)

// agent runs the node's Pods.
func (p *process) agent(ctx context.Context, client kubernetes.Interface, factory informers.SharedInformerFactory) error {
	keys, err := p.readKeys(p.name+"-serving.crt", p.name+"-serving.key", "ca.crt")
	if err != nil {
		return err
	}
	serving, err := tls.X509KeyPair(keys[0], keys[1])
	if err != nil {
		return fmt.Errorf("read the certificates: %w", err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(keys[2])
	pods, err := builtin.New(p.dir.Programs())
	if err != nil {
		return err
	}
	store, err := images.Open(p.dir.Images())
	if err != nil {
		return err
	}
	return agent.Run(ctx, agent.Config{
		NodeName:      p.name,
		NodeIPs:       p.spec.NodeAddresses(p.number),
		Client:        client,
		Informers:     factory,
		Runtime:       pods,
		Images:        imagesOfBox{store, control.NewClient(p.dir.Socket())},
		StateDir:      p.dir.Node(p.name),
		CgroupRoot:    path.Join(box.CgroupPath(p.spec.Name), p.name),
		ClusterDNS:    p.spec.DNSAddresses(),
		ClusterDomain: p.spec.Domain,
		ServingCert:   serving,
		ClientCAs:     clients,
		Port:          box.AgentPort,
		Version:       kubernetesversion.Get().GitVersion,
		Log:           p.log.With("part", "agent"),
	})
}

// imagesOfBox is the store that all nodes share. A node has no way out to a
// registry: the supervisor pulls for it.
type imagesOfBox struct {
	store      *images.Store
	supervisor *control.Client
}

// Lookup implements agent.Images.
func (i imagesOfBox) Lookup(ref string) (images.Image, error) { return i.store.Lookup(ref) }

// Changed implements agent.Images.
func (i imagesOfBox) Changed(ctx context.Context) (<-chan struct{}, error) {
	return i.store.Changed(ctx)
}

// Pull implements agent.Images.
func (i imagesOfBox) Pull(ctx context.Context, ref string) (images.Image, error) {
	if err := i.supervisor.Pull(ctx, ref); err != nil {
		return images.Image{}, err
	}
	return i.store.Lookup(ref)
}
