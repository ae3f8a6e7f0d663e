package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"

	"viaduct.dev/viaduct/test/labnet"
)

const (
	servicePort = uint16(80)
	backendPort = uint16(8080) // says who it is
	discardPort = uint16(8081) // only accepts
	apiPort     = uint16(6443)
)

// network is the lab's, with a program that is every endpoint.
type network struct {
	*labnet.Network
	server *exec.Cmd
}

func newNetwork() (*network, error) {
	in, err := labnet.New()
	if err != nil {
		return nil, err
	}
	n := &network{Network: in}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	n.server = exec.Command(self, "-role", "backends")
	n.server.Stderr = os.Stderr
	if err := n.Backends.Start(n.server); err != nil {
		n.Network.Close()
		return nil, fmt.Errorf("start the backends: %w", err)
	}
	return n, nil
}

func (n *network) close() {
	_ = n.server.Process.Kill()
	_ = n.server.Wait()
	n.Close()
}

// plus counts addresses on.
func plus(a netip.Addr, n uint32) netip.Addr {
	b := a.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += n
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}
