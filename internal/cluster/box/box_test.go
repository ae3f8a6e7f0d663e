package box

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

func TestAddressesFollowFromTheSpec(t *testing.T) {
	s := Default("x")
	s.Nodes = 3
	for _, c := range []struct {
		what string
		got  any
		want string
	}{
		{"the first node", s.NodePrefixes(1), "[172.20.0.11/16 fd00:172:20::11/64]"},
		{"the ninetieth node", s.NodeAddresses(90), "[172.20.0.100 fd00:172:20::100]"},
		{"the gateway", s.GatewayPrefixes(), "[172.20.0.1/16 fd00:172:20::1/64]"},
		{"the API", s.APIAddress(), "172.20.0.11:6443"},
		{"DNS", s.DNSAddresses(), "[10.96.0.10 fd00:10:96::a]"},
		{"the sizes of nodes' parts", s.NodeCIDRMaskSizes(), "[24 64]"},
		{"the balancers' addresses", s.LoadBalancerShare(), "[172.20.255.0/24 fd00:172:20::ff00/120]"},
		{"those in a small network", Spec{NodeNetworks: []netip.Prefix{netip.MustParsePrefix("10.9.8.0/22"), netip.MustParsePrefix("fd00:9::/119")}}.LoadBalancerShare(),
			"[10.9.10.0/23 fd00:9::100/120]"},
		{"the names", s.NodeNames(), "[node-1 node-2 node-3]"},
	} {
		if got := fmt.Sprint(c.got); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
}

func TestDefaultsAreValid(t *testing.T) {
	if err := Default("viaduct").Validate(); err != nil {
		t.Error(err)
	}
}

func TestWrongSettingsAreNamedByTheirFlag(t *testing.T) {
	p := netip.MustParsePrefix
	for name, c := range map[string]struct {
		set  func(*Spec)
		want string
	}{
		"a name with a slash":                  {func(s *Spec) { s.Name = "a/b" }, `cluster name "a/b"`},
		"no node":                              {func(s *Spec) { s.Nodes = 0 }, "--nodes: must be 1 to"},
		"two ranges of one family":             {func(s *Spec) { s.ServiceCIDRs[1] = p("10.1.0.0/16") }, "--service-cluster-ip-range"},
		"a range with host bits":               {func(s *Spec) { s.ClusterCIDRs[0] = p("10.244.0.1/16") }, "did you mean 10.244.0.0/16"},
		"Pods where Services are":              {func(s *Spec) { s.ClusterCIDRs[0] = p("10.96.0.0/16") }, "overlaps"},
		"nodes where Pods are":                 {func(s *Spec) { s.NodeNetworks[0] = p("10.244.0.0/16") }, "--node-network"},
		"a Pod network larger than its room":   {func(s *Spec) { s.NodeCIDRMaskSizeIPv4 = 8 }, "--node-cidr-mask-size-ipv4"},
		"too few Pod networks":                 {func(s *Spec) { s.Nodes, s.NodeCIDRMaskSizeIPv4 = 5, 18 }, "only 4 networks"},
		"DNS outside the range":                {func(s *Spec) { s.DNS = []netip.Addr{netip.MustParseAddr("1.2.3.4")} }, "--cluster-dns"},
		"the kubernetes Service's own address": {func(s *Spec) { s.DNS = []netip.Addr{netip.MustParseAddr("10.96.0.1")} }, "--cluster-dns"},
		"a balancer's range elsewhere":         {func(s *Spec) { s.LoadBalancerRanges[0] = p("10.9.0.0/24") }, "not inside --node-network, 172.20.0.0/16"},
		"a balancer's range over a node":       {func(s *Spec) { s.LoadBalancerRanges[0] = p("172.20.0.0/24") }, "holds the node's address 172.20.0.11"},
		"a balancer's range over the host":     {func(s *Spec) { s.LoadBalancerRanges[0] = p("172.20.0.0/29") }, "holds the host's address 172.20.0.1"},
		"Services on the loopback":             {func(s *Spec) { s.ServiceCIDRs[0] = p("127.0.0.0/16") }, "--service-cluster-ip-range: 127.0.0.0/16 is no range for hosts"},
		"Pods without the Services' family":    {func(s *Spec) { s.ClusterCIDRs = s.ClusterCIDRs[:1] }, "--cluster-cidr: 10.244.0.0/16 lacks the family of the Services, fd00:10:96::/112"},
		"nodes without the Services' family":   {func(s *Spec) { s.NodeNetworks, s.LoadBalancerRanges = s.NodeNetworks[:1], s.LoadBalancerRanges[:1] }, "--node-network: 172.20.0.0/16 lacks"},
		"a domain that is none":                {func(s *Spec) { s.Domain = "a..b" }, "--cluster-domain"},
		"an upstream that is a name":           {func(s *Spec) { s.DNSUpstream = "dns.example" }, "--dns-upstream"},
	} {
		t.Run(name, func(t *testing.T) {
			s := Default("x")
			c.set(&s)
			if err := s.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestNamespacesBelongToOneCluster(t *testing.T) {
	for name, want := range map[string]bool{
		"viaduct-a-fabric": true, "viaduct-a-node-12": true,
		"viaduct-a-b-fabric": false, "viaduct-a-b-node-1": false, "viaduct-ab-fabric": false,
		"viaduct-a-node-1-node-1": false,
	} {
		if got := OwnsNamespace("a", name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestSpecIsStoredAndReadBack(t *testing.T) {
	d := Dir(t.TempDir())
	if _, err := d.Load(); !errors.Is(err, ErrNoCluster) {
		t.Errorf("an empty directory: %v", err)
	}
	s := Default("x")
	s.APIPort, s.DNSUpstream = 1234, UpstreamHost
	if err := d.Save(s); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Load(); err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestProcessIsToldFromALaterOneOfItsNumber(t *testing.T) {
	p, err := NewProcess(RoleNode, "node-1", os.Getpid())
	if err != nil || !p.Alive() {
		t.Fatalf("%+v, %v", p, err)
	}
	p.Start = "1"
	if p.Alive() {
		t.Error("another start, yet the same process")
	}
	p.Kill() // must not hit this test
}

func TestNameserversOfAResolvConf(t *testing.T) {
	const text = "# nameserver 1.1.1.1\nsearch x\nnameserver 192.0.2.1\nnameserver\nnameserver nonsense\n nameserver 2001:db8::1 # second\n"
	if got := fmt.Sprint(nameservers(strings.NewReader(text))); got != "[192.0.2.1:53 [2001:db8::1]:53]" {
		t.Error(got)
	}
}

func TestNodesAreFoundBeforeTheyAreRecorded(t *testing.T) {
	d := Dir(t.TempDir())
	// A shell under a node's arguments: "node" is the script that it reads, a
	// pipe that nobody writes to.
	fifo := filepath.Join(t.TempDir(), "node")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: "/bin/sh", Args: []string{"viaduct", "node", string(d), "node-2"}, Dir: filepath.Dir(fifo)}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	all := d.Processes()
	if len(all) != 1 || all[0].PID != cmd.Process.Pid || all[0].Role != RoleNode || all[0].Node != "node-2" {
		t.Errorf("found %+v", all)
	}
}

func TestShimsAreFoundByTheirProgram(t *testing.T) {
	d := Dir(t.TempDir())
	if err := os.MkdirAll(d.Programs(), 0o755); err != nil {
		t.Fatal(err)
	}
	sleep, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Skip(err)
	}
	shim := filepath.Join(d.Programs(), "viaduct-shim-0123")
	if err := os.WriteFile(shim, sleep, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: shim, Args: []string{"shim", "60"}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	all := d.Processes()
	if len(all) != 1 || all[0].PID != cmd.Process.Pid || all[0].Role != RoleShim {
		t.Errorf("found %+v", all)
	}
}
