package nftables

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"viaduct.dev/viaduct/internal/lab"
	"viaduct.dev/viaduct/internal/lab/labtest"
	"viaduct.dev/viaduct/internal/servicetable"
)

func node() Node {
	return Node{
		NodePortAddresses: []netip.Addr{netip.MustParseAddr("172.20.0.11"), netip.MustParseAddr("fd00:172:20::11")},
		Masquerade:        []netip.Addr{netip.MustParseAddr("172.20.0.11"), netip.MustParseAddr("fd00:172:20::11")},
		LocalCIDRs:        []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")},
		ServiceCIDRs:      []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:10:96::/112")},
	}
}

func config() Config { return Config{RandomFully: true, Log: slog.New(slog.DiscardHandler)} }

func open(t testing.TB, ns *lab.Namespace) (*Sink, servicetable.Prior) {
	t.Helper()
	var s *Sink
	var seed servicetable.Prior
	if err := ns.Do(func() (err error) { s, seed, err = Open(config(), node()); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, seed
}

// nft runs Debian's nft inside the namespace.
func nft(t *testing.T, ns *lab.Namespace, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("nft is not installed (Debian package nftables)")
	}
	var out bytes.Buffer
	cmd := exec.Command("nft", args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out.String())
	}
	return out.String()
}

func TestTableIsMadeListedAndAdopted(t *testing.T) {
	ns := labtest.New(t)
	s, seed := open(t, ns)
	if len(seed.Frontends) != 0 {
		t.Errorf("a new table holds %v", seed)
	}
	f := servicetable.Frontend{Addr: netip.MustParseAddr("10.96.0.7"), Port: 80, Protocol: servicetable.TCP}
	v := servicetable.View{Verdict: servicetable.Serve, Pool: 11<<28 | 5, Size: 2}
	target := servicetable.Target{Internal: v, External: v}
	d := &servicetable.Diff{
		Frontends: []servicetable.FrontendChange{{Frontend: f, New: target}},
		Slots: []servicetable.SlotChange{
			{Pool: 11<<28 | 5, Slot: 0, New: netip.MustParseAddrPort("10.244.0.5:5000")},
			{Pool: 11<<28 | 5, Slot: 1, New: netip.MustParseAddrPort("10.244.0.6:5000")},
		},
	}
	if err := s.Apply(d); err != nil {
		t.Fatal(err)
	}
	for _, family := range []string{"ip", "ip6"} {
		out := nft(t, ns, "list", "table", family, "viaduct")
		if family == "ip" && (!strings.Contains(out, "10.96.0.7 . tcp . 80") || !strings.Contains(out, "10.244.0.6 . 5000")) {
			t.Errorf("the listing lacks the data:\n%s", out)
		}
	}
	before := nft(t, ns, "list", "ruleset")
	s.Close()

	again, seed := open(t, ns)
	if got := seed.Frontends[f]; got.Internal != 11<<28|5 || len(seed.Slots[11<<28|5]) != 2 {
		t.Errorf("adopted %+v, slots %v", got, seed.Slots)
	}
	if err := again.Apply(d); err != nil {
		t.Fatal(err)
	}
	if after := nft(t, ns, "list", "ruleset"); after != before {
		t.Errorf("adoption changed the rules:\n%s\nbefore:\n%s", after, before)
	}
}
