package nftables

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/lab/labtest"
	"viaduct.dev/viaduct/internal/servicetable"
)

// Row "coexistence" of features.md: another program's flush passes by.
func TestAFlushPassesByAnOwnedTable(t *testing.T) {
	n := newSite(t)
	s, _ := open(t, n.node)
	must(t, s.Apply(serves(1, servicetable.HideOffCluster, []int{10}, clusterIP...)))
	if s.flags == 0 {
		t.Skip("the kernel knows no owners of tables (Linux 6.9)")
	}
	nft(t, n.node, "add", "table", "ip", "others")
	nft(t, n.node, "flush", "ruleset")
	if out := nft(t, n.node, "list", "ruleset"); strings.Contains(out, "others") || !strings.Contains(out, "10.96.0.7 . tcp . 80") {
		t.Errorf("after a flush:\n%s", out)
	}
	if out, err := tryNFT(n.node, "delete", "table", "ip", "viaduct"); err == nil {
		t.Errorf("somebody else could delete the table: %s", out)
	}
	for _, to := range clusterIP {
		if _, _, err := reach(n.pod, to); err != nil {
			t.Error(err)
		}
	}
}

// Where the kernel knows no owners, what others do is noticed and healed.
func TestWhatOthersDoIsNoticedAndHealed(t *testing.T) {
	n := newSite(t)
	cfg := config()
	cfg.plain = true
	s := openWith(t, n.node, cfg, node())
	defer s.Close()
	d := serves(1, servicetable.HideOffCluster, []int{10}, clusterIP...)
	must(t, s.Apply(d))
	big := moved(cluster(2000, 10), 100) // more than the socket would hold news of
	must(t, s.Apply(big))
	must(t, s.SetNode(Node{}))
	must(t, s.SetNode(node()))
	select {
	case <-s.Lost():
		t.Fatal("it took its own work for others'")
	default:
	}
	nft(t, n.node, "add", "table", "ip", "others")
	all := &servicetable.Diff{Frontends: append(d.Frontends, big.Frontends...), Slots: append(d.Slots, big.Slots...)}
	for _, work := range []string{
		"flush ruleset", "delete table ip6 viaduct", "delete element ip viaduct svc { 10.96.0.7 . tcp . 80 }",
		"flush chain ip viaduct prerouting", "flush map ip viaduct eps", "add rule ip viaduct prerouting drop",
	} {
		nft(t, n.node, strings.Fields(work)...)
		select {
		case <-s.Lost():
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: not noticed", work)
		}
		must(t, s.Reload())
		must(t, s.Apply(all))
		for _, to := range clusterIP {
			if _, _, err := reach(n.pod, to); err != nil {
				t.Errorf("after %s: %v", work, err)
			}
		}
	}
	select {
	case <-s.Lost():
		t.Error("it took its own repair for others' work")
	default:
	}
}

func TestCleanupRemovesEveryTableOfOurs(t *testing.T) {
	ns := labtest.New(t)
	for _, plain := range []bool{false, true} {
		cfg := config()
		cfg.plain = plain
		s := openWith(t, ns, cfg, node())
		must(t, s.Apply(serves(1, servicetable.HideOffCluster, []int{10}, clusterIP...)))
		s.Close()
		nft(t, ns, "add", "table", "ip", "others")
		for range 2 {
			must(t, ns.Do(Cleanup))
		}
		if out := nft(t, ns, "list", "ruleset"); strings.Contains(out, "viaduct") || !strings.Contains(out, "others") {
			t.Errorf("it left\n%s", out)
		}
	}
}

// A refused element is left out and told; all else is programmed, and what a
// frontend leads to is there whenever it is.
func TestARefusedElementIsIsolated(t *testing.T) {
	n := newSite(t)
	for _, fresh := range []bool{true, false} {
		s, _ := open(t, n.node)
		if !fresh {
			must(t, s.Apply(&servicetable.Diff{}))
		}
		d := serves(1, servicetable.HideOffCluster, []int{10, 11}, clusterIP...)
		// Two backends in one slot.
		bad := d.Slots[0]
		bad.New = netip.AddrPortFrom(bad.New.Addr(), 9999)
		d.Slots = append(d.Slots, bad)
		more := moved(cluster(300, 3), 100)
		d.Frontends, d.Slots = append(d.Frontends, more.Frontends...), append(d.Slots, more.Slots...)
		if err := s.Apply(d); !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EEXIST) {
			t.Errorf("want the refusal told, got %v", err)
		}
		frontends, slots := 0, 0
		must(t, s.conn.elements(unix.NFPROTO_IPV4, "svc", func(element) { frontends++ }))
		must(t, s.conn.elements(unix.NFPROTO_IPV4, "eps", func(element) { slots++ }))
		if frontends != 301 || slots != 902 {
			t.Errorf("fresh %v: %d frontends, %d slots", fresh, frontends, slots)
		}
		for range 5 {
			if _, _, err := reach(n.pod, clusterIP[1]); err != nil {
				t.Error(err)
			}
		}
		s.Close()
		must(t, n.node.Do(Cleanup))
	}
}

// A pool that has fewer slots than its frontend thinks still answers, so every
// change may be a transaction of its own.
func TestAPoolWithTooFewSlotsAnswers(t *testing.T) {
	n := newSite(t)
	s, _ := open(t, n.node)
	d := serves(1, servicetable.HideOffCluster, []int{10, 11}, clusterIP...)
	for i := range d.Frontends {
		d.Frontends[i].New.Internal.Size, d.Frontends[i].New.External.Size = 9000, 9000
	}
	must(t, s.Apply(d))
	for range 100 {
		for _, to := range clusterIP {
			if _, _, err := reach(n.pod, to); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestChangesAreOrdered(t *testing.T) {
	var all []change
	add := func(set string, add, del bool) {
		all = append(all, change{element: element{set: set}, add: add, del: del})
	}
	add("eps", false, true)
	add("svc_ext", false, true)
	add("svc", true, true)
	add("svc_ext", true, false)
	add("sources", true, false)
	add("sources", false, true)
	add("eps", true, false)
	order(all)
	got := ""
	for _, c := range all {
		got += fmt.Sprintf("%s %v, ", c.set, c.add)
	}
	if want := "eps true, sources true, svc_ext true, svc true, svc_ext false, eps false, sources false, "; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// The data only: the same bytes for one endpoint whatever the number of Services,
// and as many chains and rules.
func TestAChangeIsTheSameAmongFewAndMany(t *testing.T) {
	var bytes [2]uint64
	var rules [2]int
	for i, services := range []int{100, 50000} {
		ns := labtest.New(t)
		s, _ := open(t, ns)
		must(t, s.Apply(cluster(services, 1)))
		before := s.conn.sent
		must(t, s.Apply(&servicetable.Diff{Slots: []servicetable.SlotChange{{Pool: 1, Slot: 0, Old: backend(0), New: backend(900000)}}}))
		bytes[i] = s.conn.sent - before
		out := nft(t, ns, "-t", "list", "ruleset")
		rules[i] = strings.Count(out, "\n")
		s.Close()
	}
	if bytes[0] != bytes[1] || bytes[0] == 0 {
		t.Errorf("one endpoint took %d bytes among 100 Services and %d among 50,000", bytes[0], bytes[1])
	}
	if rules[0] != rules[1] {
		t.Errorf("the rules are %d lines for 100 Services and %d for 50,000", rules[0], rules[1])
	}
	t.Logf("%d bytes, %d lines of rules", bytes[0], rules[0])
}

// What an element belongs to is told by its comment, which a restart does not
// rewrite.
func TestElementsNameTheirService(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("nft is not installed (Debian package nftables)")
	}
	ns := labtest.New(t)
	s, _ := open(t, ns)
	d := serves(1, servicetable.HideOffCluster, []int{10, 11}, append(clusterIP, "0.0.0.0:30080")...)
	long := verdicts(servicetable.Refuse, servicetable.Refuse, "10.96.0.9:80")
	long.Frontends[0].New.Service = strings.Repeat("n", 63) + "/" + strings.Repeat("s", 63) + ":" + strings.Repeat("p", 63)
	d.Frontends = append(d.Frontends, long.Frontends...)
	must(t, s.Apply(d))
	out := nft(t, ns, "list", "table", "ip", "viaduct")
	for _, want := range []string{
		`10.96.0.7 . tcp . 80 comment "default/web:http" : `, `tcp . 30080 comment "default/web:http" : `,
		`0x00000000 comment "default/web:http" : 10.244.9.10 . 8080`, `comment "` + strings.Repeat("n", 63) + "/" + strings.Repeat("s", 63) + `" : `,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the listing lacks %s", want)
		}
	}
	s.Close()
	again, _ := open(t, ns)
	must(t, again.Apply(d))
	adopted := again.conn.sent
	again.Close()
	// To adopt a table is to name it: nothing else is written.
	if adopted > 2*200 {
		t.Errorf("a restart wrote %d bytes", adopted)
	}
}
