package pki

import (
	"crypto/x509"
	"net"
	"net/netip"
)

// Request is what a certificate shall state.
type Request struct {
	CommonName    string
	Organizations []string // a client's groups
	DNSNames      []string
	Addresses     []netip.Addr
	// Server and Client say what the certificate may be used for.
	Server, Client bool
}

// APIServer asks for the serving certificate of the API: localhost, the nodes'
// addresses, the first address of each Service range (the Service "kubernetes")
// and that Service's names in the cluster's domain.
func APIServer(nodes []netip.Addr, serviceCIDRs []netip.Prefix, domain string) Request {
	addrs := append(loopbacks(), nodes...)
	for _, cidr := range serviceCIDRs {
		addrs = append(addrs, cidr.Masked().Addr().Next())
	}
	return Request{
		CommonName: "kube-apiserver",
		DNSNames: []string{
			"localhost",
			"kubernetes",
			"kubernetes.default",
			"kubernetes.default.svc",
			"kubernetes.default.svc." + domain,
		},
		Addresses: addrs,
		Server:    true,
	}
}

// Agent asks for the serving certificate of a node's agent, which the API
// dials for logs and exec.
func Agent(node string, addrs []netip.Addr) Request {
	return Request{
		CommonName:    "system:node:" + node,
		Organizations: []string{"system:nodes"},
		DNSNames:      []string{node, "localhost"},
		Addresses:     append(loopbacks(), addrs...),
		Server:        true,
	}
}

// Node asks for the certificate by which a node's agent is a client of the API.
func Node(node string) Request {
	return Client("system:node:"+node, "system:nodes")
}

// Client asks for the certificate of a client of the API, or of the API as a
// client of the agents: the user name and its groups.
func Client(user string, groups ...string) Request {
	return Request{CommonName: user, Organizations: groups, Client: true}
}

func loopbacks() []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
}

func (r Request) usages() []x509.ExtKeyUsage {
	var usages []x509.ExtKeyUsage
	if r.Server {
		usages = append(usages, x509.ExtKeyUsageServerAuth)
	}
	if r.Client {
		usages = append(usages, x509.ExtKeyUsageClientAuth)
	}
	return usages
}

func (r Request) netIPs() []net.IP {
	var ips []net.IP
	for _, addr := range r.Addresses {
		ips = append(ips, addr.AsSlice())
	}
	return ips
}

func ipStrings(ips []net.IP) []string {
	var out []string
	for _, ip := range ips {
		out = append(out, ip.String())
	}
	return out
}
