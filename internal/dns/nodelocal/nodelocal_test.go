package nodelocal

import (
	"errors"
	"net/netip"
	"os"
	"testing"

	"viaduct.dev/viaduct/internal/lab/labtest"
)

func TestAddressesAnswerOnTheNodeItself(t *testing.T) {
	ns := labtest.New(t)
	addrs := []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::a")}
	for range 2 { // doing it again is no error
		if err := ns.Do(func() error { return Assign(addrs, false) }); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range addrs {
		c, err := ns.ListenPacket(t.Context(), "udp", netip.AddrPortFrom(a, 53).String())
		if err != nil {
			t.Error(err)
			continue
		}
		c.Close()
	}
}

func TestTheHostsOwnNamespaceIsLeftAlone(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("comparing namespaces with the first process's needs root")
	}
	if in, err := inHostNamespace(); err != nil || !in {
		t.Skip("this test itself does not run in the first process's namespace")
	}
	if err := Assign([]netip.Addr{netip.MustParseAddr("10.96.0.10")}, false); !errors.Is(err, ErrHostNamespace) {
		t.Errorf("assigned: %v", err)
	}
}
