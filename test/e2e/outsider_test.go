package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"viaduct.dev/viaduct/internal/lab"
	"viaduct.dev/viaduct/internal/lab/labtest"
)

// outsider is a host on the nodes' network that is no node: 172.20.0.OCTET and
// fd00:172:20::OCTET.
func outsider(t *testing.T, b *box, octet int) *lab.Namespace {
	t.Helper()
	fabric, err := lab.Open("viaduct-" + b.name + "-fabric")
	if err != nil {
		t.Fatal(err)
	}
	defer fabric.Close()
	host := labtest.New(t)
	port := fmt.Sprintf("outsider%d", octet)
	for _, step := range []func() error{
		func() error { return lab.Connect(host, "eth0", fabric, port) },
		func() error { return fabric.Enslave(port, "fabric") },
		func() error {
			return host.AddAddress("eth0", netip.MustParsePrefix(fmt.Sprintf("172.20.0.%d/16", octet)))
		},
		func() error {
			return host.AddAddress("eth0", netip.MustParsePrefix(fmt.Sprintf("fd00:172:20::%d/64", octet)))
		},
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	return host
}

func routeVia(t *testing.T, host *lab.Namespace, to, via string) {
	t.Helper()
	if err := host.AddRoute(netip.MustParsePrefix(to), netip.MustParseAddr(via)); err != nil {
		t.Fatal(err)
	}
}

// get fetches url from inside a namespace, or from here where there is none.
func get(from *lab.Namespace, url string) error {
	tr := &http.Transport{DisableKeepAlives: true}
	if from != nil {
		tr.DialContext = from.DialContext
	}
	client := &http.Client{Transport: tr, Timeout: 3 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || len(body) == 0 {
		return fmt.Errorf("%s: %s %q", url, resp.Status, body)
	}
	return nil
}

// udpEcho sends a datagram and wants an answer.
func udpEcho(from *lab.Namespace, to netip.AddrPort) error {
	dial := (&net.Dialer{}).DialContext
	if from != nil {
		dial = from.DialContext
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	conn, err := dial(ctx, "udp", to.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	if err != nil {
		return err
	}
	if !strings.Contains(string(buf[:n]), "hello") {
		return fmt.Errorf("udp answer %q", buf[:n])
	}
	return nil
}

// tryShell runs a program in the first node's network and gives its error.
func (b *box) tryShell(t *testing.T, args ...string) error {
	t.Helper()
	out, err := b.run(t.Context(), "", append([]string{"shell", "--"}, args...)...)
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
