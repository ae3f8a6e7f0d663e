package lab_test

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"viaduct.dev/viaduct/internal/lab"
	"viaduct.dev/viaduct/internal/lab/labtest"
)

func TestTwoHostsTalkOverACable(t *testing.T) {
	a, b := labtest.New(t), labtest.New(t)
	must(t, lab.Connect(a, "eth0", b, "eth0"))
	for _, c := range []struct{ a, b string }{{"192.0.2.1/24", "192.0.2.2/24"}, {"2001:db8::1/64", "2001:db8::2/64"}} {
		must(t, a.AddAddress("eth0", netip.MustParsePrefix(c.a)))
		must(t, b.AddAddress("eth0", netip.MustParsePrefix(c.b)))
		to := netip.AddrPortFrom(netip.MustParsePrefix(c.b).Addr(), 80).String()
		l, err := b.Listen(t.Context(), "tcp", to)
		must(t, err)
		defer l.Close()
		go func() {
			if conn, err := l.Accept(); err == nil {
				fmt.Fprint(conn, conn.RemoteAddr())
				conn.Close()
			}
		}()
		conn, err := a.DialContext(t.Context(), "tcp", to)
		must(t, err)
		got, err := io.ReadAll(conn)
		must(t, err)
		if want := netip.MustParsePrefix(c.a).Addr(); netip.MustParseAddrPort(string(got)).Addr() != want {
			t.Errorf("the server saw %s, not %s", got, want)
		}
	}
}

func TestCablesAreNeverSeenInTheCallersNamespace(t *testing.T) {
	a, b := labtest.New(t), labtest.New(t)
	must(t, lab.Connect(a, "vialabtest0", b, "eth0"))
	out, err := exec.Command("cat", "/proc/net/dev").Output()
	must(t, err)
	if bytes.Contains(out, []byte("vialabtest0")) {
		t.Errorf("the link is in the caller's namespace:\n%s", out)
	}
}

func TestNamedNamespaceIsFoundAgainAndDeleted(t *testing.T) {
	labtest.NeedRoot(t)
	name := fmt.Sprintf("viaduct-labtest-%d", os.Getpid())
	ns, err := lab.Create(name)
	must(t, err)
	t.Cleanup(func() { lab.Delete(name) })
	defer ns.Close()
	if _, err := lab.Create(name); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("a name that is in use: %v", err)
	}
	again, err := lab.Open(name)
	must(t, err)
	defer again.Close()
	if same, err := ns.Is(again); err != nil || !same {
		t.Errorf("another namespace was opened: %v", err)
	}
	here, err := lab.Current()
	must(t, err)
	defer here.Close()
	if same, _ := ns.Is(here); same {
		t.Error("it is the caller's own namespace")
	}
	must(t, lab.Delete(name))
	if _, err := lab.Open(name); err == nil {
		t.Error("it is still there")
	}
	must(t, lab.Delete(name))
}

func TestOpenRefusesWhatIsNoNamespace(t *testing.T) {
	path := t.TempDir() + "/file"
	must(t, os.WriteFile(path, nil, 0o600))
	if _, err := lab.Open(path); err == nil || !strings.Contains(err.Error(), "not a namespace") {
		t.Errorf("opened a plain file: %v", err)
	}
}

func TestProgramsRunInside(t *testing.T) {
	ns := labtest.New(t)
	must(t, ns.AddBridge("br-inside"))
	var out bytes.Buffer
	cmd := exec.Command("cat", "/proc/net/dev")
	cmd.Stdout = &out
	must(t, ns.Start(cmd))
	must(t, cmd.Wait())
	if !strings.Contains(out.String(), "br-inside") {
		t.Errorf("the program saw:\n%s", out.String())
	}
}

func TestSysctlBelongsToTheNamespace(t *testing.T) {
	ns := labtest.New(t)
	before, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	must(t, err)
	must(t, ns.Sysctl("net.ipv4.ip_forward", "1"))
	after, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the caller's own sysctl changed")
	}
	if err := ns.Sysctl("kernel.hostname", "x"); err == nil {
		t.Error("a sysctl that is the whole machine's was set")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
