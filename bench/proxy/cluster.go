package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"viaduct.dev/viaduct/internal/lab"
	"viaduct.dev/viaduct/test/labapi"
	"viaduct.dev/viaduct/test/labnet"
)

const (
	namespace = "bench"
	endpoints = 10 // of each Service
	probes    = 16 // further Services, of one endpoint, on which updates are timed
	writers   = 32
)

// cluster is an API full of Services.
type cluster struct {
	api        string // what serves it
	client     kubernetes.Interface
	kubeconfig string
	services   int
	stop       func() error
	fresh      uint32 // how many backend addresses have been given out by next
}

// openCluster starts an API that has so many Services. One that was filled is
// kept in state from run to run; what is measured is a copy in memory, so that no
// write waits for a disk that others use.
func openCluster(ctx context.Context, n *network, kind, peers, state, scratch string, services int) (*cluster, error) {
	kept := filepath.Join(state, fmt.Sprintf("%s-%d", kind, services))
	filled := filepath.Join(kept, "filled")
	if _, err := os.Stat(filled); err != nil {
		if err := os.RemoveAll(kept); err != nil {
			return nil, err
		}
		c, err := startCluster(ctx, n, kind, peers, kept, services)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(c.fill(ctx), c.stop()); err != nil {
			return nil, fmt.Errorf("fill the API: %w", err)
		}
		if err := os.WriteFile(filled, nil, 0o600); err != nil {
			return nil, err
		}
	}
	dir := filepath.Join(scratch, "api")
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.CopyFS(dir, os.DirFS(kept)); err != nil {
		return nil, fmt.Errorf("copy the filled API: %w", err)
	}
	return startCluster(ctx, n, kind, peers, dir, services)
}

func startCluster(ctx context.Context, n *network, kind, peers, dir string, services int) (*cluster, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	c := &cluster{api: kind, services: services}
	o := labapi.Options{Address: netip.AddrPortFrom(labnet.APIAddrs[0], apiPort), ServiceCIDRs: labnet.ServiceCIDRs[:1]}
	var err error
	switch kind {
	case "upstream":
		var api *labapi.API
		if api, err = labapi.Upstream(ctx, n.API, peers, dir, o); err == nil {
			c.kubeconfig, c.stop = api.Kubeconfig, api.Stop
		}
	case "viaduct":
		c.kubeconfig = filepath.Join(dir, "kubeconfig")
		c.stop, err = startAPI(n.API, dir)
	default:
		err = fmt.Errorf("there is no API called %q", kind)
	}
	if err != nil {
		return nil, err
	}
	if err := c.connect(n.API); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

func (c *cluster) connect(ns *lab.Namespace) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		return err
	}
	cfg.Dial, cfg.QPS = ns.DialContext, -1
	c.client, err = kubernetes.NewForConfig(cfg)
	return err
}

// startAPI runs Viaduct's own API in a process of its own, as the upstream one.
func startAPI(ns *lab.Namespace, dir string) (stop func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-role", "api", "-state", dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := ns.Start(cmd); err != nil {
		return nil, fmt.Errorf("start the API: %w", err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("the API is not ready: %q: %w", line, err), cmd.Wait())
	}
	return func() error {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		return cmd.Wait()
	}, nil
}

// serveAPI is that process.
func serveAPI(ctx context.Context, dir string, out io.Writer) error {
	here, err := lab.Current()
	if err != nil {
		return err
	}
	api, err := labapi.Viaduct(ctx, here, dir, labapi.Options{
		Address: netip.AddrPortFrom(netip.IPv4Unspecified(), apiPort), Names: []netip.Addr{labnet.APIAddrs[0]}, ServiceCIDRs: labnet.ServiceCIDRs[:1],
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "ready")
	<-ctx.Done()
	return api.Stop()
}

// vip is the cluster IP of a Service: probes come first.
func vip(i int) netip.AddrPort {
	return netip.AddrPortFrom(plus(netip.MustParseAddr("10.97.0.1"), uint32(i)), servicePort)
}

// next is a backend's address that nobody has had yet.
func (c *cluster) next() netip.Addr {
	c.fresh++
	return plus(netip.MustParseAddr("10.176.0.0"), uint32(time.Now().Unix()%1000)*1000+c.fresh)
}

func service(i int) *corev1.Service {
	target := discardPort
	if i < probes {
		target = backendPort
	}
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name(i)},
		Spec: corev1.ServiceSpec{
			ClusterIP: vip(i).Addr().String(),
			Ports:     []corev1.ServicePort{{Name: "http", Port: int32(servicePort), TargetPort: intstr.FromInt32(int32(target))}},
		},
	}
}

func name(i int) string { return fmt.Sprintf("s-%05d", i) }

// backend is the j-th endpoint that a Service had first.
func backend(i, j int) netip.Addr {
	return plus(labnet.BackendCIDRs[0].Addr(), uint32(i*endpoints+j+1))
}

func slice(i int) *discoveryv1.EndpointSlice {
	port, number := int32(discardPort), endpoints
	if i < probes {
		port, number = int32(backendPort), 1
	}
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: name(i), Labels: map[string]string{discoveryv1.LabelServiceName: name(i)}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Protocol: new(corev1.ProtocolTCP), Port: &port}},
	}
	for j := range number {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{backend(i, j).String()},
			Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
			NodeName:   new("node-2"),
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: namespace, Name: fmt.Sprintf("%s-%d", name(i), j)},
		})
	}
	return s
}

// fill writes all objects.
func (c *cluster) fill(ctx context.Context) error {
	begin := time.Now()
	_, err := c.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if err := c.createNode(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for i := range c.services + probes {
		g.Go(func() error {
			_, err := c.client.CoreV1().Services(namespace).Create(ctx, service(i), metav1.CreateOptions{})
			if err != nil {
				return err
			}
			_, err = c.client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice(i), metav1.CreateOptions{})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	fmt.Printf("filled the %s API with %d Services x %d endpoints in %.1f s\n", c.api, c.services, endpoints, time.Since(begin).Seconds())
	return nil
}

func (c *cluster) createNode(ctx context.Context) error {
	n, err := c.client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: labnet.NodeName}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: labnet.NodeAddrs[0].String()}}
	_, err = c.client.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{})
	return err
}

// replace gives one endpoint of a Service another address by one PUT, without
// reading first. It returns how long the PUT took.
func (c *cluster) replace(ctx context.Context, i, j int, with netip.Addr) (time.Duration, error) {
	s := slice(i)
	s.Endpoints[j].Addresses[0] = with.String()
	begin := time.Now()
	_, err := c.client.DiscoveryV1().EndpointSlices(namespace).Update(ctx, s, metav1.UpdateOptions{})
	return time.Since(begin), err
}

// reset gives the probes their first endpoints.
func (c *cluster) reset(ctx context.Context) error {
	for i := range probes {
		if _, err := c.replace(ctx, i, 0, backend(i, 0)); err != nil {
			return fmt.Errorf("reset the probes: %w", err)
		}
	}
	return nil
}
