package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/lab"
)

// Bridge is the name of the bridge, and of the fabric's namespace's only
// network.
const Bridge = "fabric"

// Uplink is the name of a node's link to the fabric.
const Uplink = "eth0"

// Fabric is the network of a running box.
type Fabric struct {
	// Nodes are the nodes' namespaces, by name.
	Nodes map[string]*lab.Namespace

	spec   box.Spec
	fabric *lab.Namespace
}

// Open finds the namespaces of a cluster, and makes those that are missing.
// They are not cabled yet.
func Open(dir box.Dir, spec box.Spec) (*Fabric, error) {
	owner, err := Owner(spec.Name)
	if err != nil {
		return nil, err
	}
	if owner != "" && owner != dir {
		return nil, fmt.Errorf("the name %s is in use: network namespace %s belongs to %s", spec.Name, box.FabricNamespace(spec.Name), owner)
	}
	f := &Fabric{spec: spec, Nodes: map[string]*lab.Namespace{}}
	if f.fabric, err = openOrCreate(box.FabricNamespace(spec.Name)); err != nil {
		return nil, err
	}
	if err := f.claim(dir); err != nil {
		f.Close()
		return nil, fmt.Errorf("make the nodes' network: %w", err)
	}
	var (
		lock sync.Mutex
		all  sync.WaitGroup
		errs []error
	)
	for _, name := range spec.NodeNames() {
		all.Go(func() {
			ns, err := openOrCreate(box.NodeNamespace(spec.Name, name))
			lock.Lock()
			defer lock.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			f.Nodes[name] = ns
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Close closes the descriptors; the network stays.
func (f *Fabric) Close() {
	if f.fabric != nil {
		f.fabric.Close()
	}
	for _, ns := range f.Nodes {
		ns.Close()
	}
}

// Cable gives the namespaces their links, addresses and routes. Whatever is
// there already stays as it is.
func (f *Fabric) Cable() error {
	for _, p := range f.spec.GatewayPrefixes() {
		if err := f.fabric.AddAddress(Bridge, p); err != nil {
			return fmt.Errorf("make the nodes' network: %w", err)
		}
		if err := noWayOut(f.fabric, p.Addr()); err != nil {
			return fmt.Errorf("make the nodes' network: %w", err)
		}
	}
	if err := sysctls(f.fabric, forwarding); err != nil {
		return fmt.Errorf("make the nodes' network: %w", err)
	}
	var (
		lock sync.Mutex
		all  sync.WaitGroup
		errs []error
	)
	for i := 1; i <= f.spec.Nodes; i++ {
		all.Go(func() {
			if err := f.cableNode(i); err != nil {
				lock.Lock()
				defer lock.Unlock()
				errs = append(errs, fmt.Errorf("connect %s: %w", box.NodeName(i), err))
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func (f *Fabric) cableNode(i int) error {
	name := box.NodeName(i)
	ns := f.Nodes[name]
	there, err := hasLink(ns, Uplink)
	if err != nil {
		return err
	}
	if !there {
		if err := lab.Connect(ns, Uplink, f.fabric, name); err != nil {
			return err
		}
	}
	// Whoever made the pair may have been killed before it set the ends up.
	if err := errors.Join(ns.SetUp(Uplink), f.fabric.SetUp(name)); err != nil {
		return err
	}
	if err := f.fabric.Enslave(name, Bridge); err != nil {
		return err
	}
	if err := sysctls(ns, forwarding, node); err != nil {
		return err
	}
	for _, p := range f.spec.NodePrefixes(i) {
		if err := ns.AddAddress(Uplink, p); err != nil {
			return err
		}
	}
	for _, p := range f.spec.GatewayPrefixes() {
		if err := ns.AddRoute(everything(p.Addr()), p.Addr()); err != nil {
			return err
		}
	}
	return nil
}

// claim makes the bridge and writes on it whose it is.
func (f *Fabric) claim(dir box.Dir) error {
	there, err := hasLink(f.fabric, Bridge)
	if err != nil {
		return err
	}
	if !there {
		if err := f.fabric.AddBridge(Bridge); err != nil {
			return err
		}
	}
	h, err := f.fabric.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.LinkByName(Bridge)
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(l); err != nil {
		return fmt.Errorf("set up bridge %s: %w", Bridge, err)
	}
	return h.LinkSetAlias(l, alias(dir))
}

// alias is a directory's mark on the bridge; the kernel takes 255 bytes.
func alias(dir box.Dir) string {
	s := string(dir)
	if len(s) > 255 {
		s = s[len(s)-255:]
	}
	return s
}

// Owner is the directory of the cluster that the namespaces of that name belong
// to, or empty if there are none or nobody has claimed them.
func Owner(cluster string) (box.Dir, error) {
	ns, err := lab.Open(box.FabricNamespace(cluster))
	if err != nil {
		// A pin that no namespace is mounted on any more, as after a restart of
		// the machine, owns nothing.
		return "", nil
	}
	defer ns.Close()
	h, err := ns.Handle()
	if err != nil {
		return "", err
	}
	defer h.Close()
	l, err := h.LinkByName(Bridge)
	if err != nil {
		return "", nil
	}
	return box.Dir(l.Attrs().Alias), nil
}

// Owners are the directories of all clusters of this machine that have a fabric,
// whether they run or not.
func Owners() []box.Dir {
	entries, _ := os.ReadDir(lab.Directory)
	var all []box.Dir
	for _, e := range entries {
		cluster, ok := box.FabricOf(e.Name())
		if !ok {
			continue
		}
		if dir, err := Owner(cluster); err == nil && dir != "" {
			all = append(all, dir)
		}
	}
	return all
}

// Remove deletes the namespaces of a cluster, and with them every link that is
// only in them.
func Remove(cluster string) error {
	entries, err := os.ReadDir(lab.Directory)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look for network namespaces: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if box.OwnsNamespace(cluster, e.Name()) {
			errs = append(errs, lab.Delete(e.Name()))
		}
	}
	return errors.Join(errs...)
}

func openOrCreate(name string) (*lab.Namespace, error) {
	if ns, err := lab.Open(name); err == nil {
		return ns, nil
	}
	// What is left of a name without a namespace is only a file.
	if _, err := os.Stat(filepath.Join(lab.Directory, name)); err == nil {
		if err := lab.Delete(name); err != nil {
			return nil, err
		}
	}
	return lab.Create(name)
}

func hasLink(ns *lab.Namespace, name string) (bool, error) {
	h, err := ns.Handle()
	if err != nil {
		return false, err
	}
	defer h.Close()
	_, err = h.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return false, nil
	}
	return err == nil, err
}

var (
	forwarding = [][2]string{
		{"net.ipv4.ip_forward", "1"},
		{"net.ipv6.conf.all.forwarding", "1"},
	}
	// A Service's packets come and go by different ways, and whoever reaches a
	// Service address on the node's own loopback does so on purpose.
	node = [][2]string{
		{"net.ipv4.conf.all.rp_filter", "0"},
		{"net.ipv4.conf.default.rp_filter", "0"},
	}
)

func sysctls(ns *lab.Namespace, lists ...[][2]string) error {
	for _, list := range lists {
		for _, kv := range list {
			if err := ns.Sysctl(kv[0], kv[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// noWayOut answers whatever has no route with "unreachable".
func noWayOut(ns *lab.Namespace, family netip.Addr) error {
	h, err := ns.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	all := everything(family)
	route := &netlink.Route{
		Dst:      &net.IPNet{IP: all.Addr().AsSlice(), Mask: net.CIDRMask(0, all.Addr().BitLen())},
		Type:     unix.RTN_UNREACHABLE,
		Priority: 1 << 20,
	}
	if err := h.RouteReplace(route); err != nil {
		return fmt.Errorf("add the unreachable route: %w", err)
	}
	return nil
}

func everything(family netip.Addr) netip.Prefix {
	if family.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}
