package histories

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"viaduct.dev/viaduct/internal/proxy/oracle"
	"viaduct.dev/viaduct/internal/proxy/planetest"
)

var (
	// patience is how long an answer is awaited, persistence how long before
	// its lack is held against anybody.
	patience    = planetest.Patience{Answer: 80 * time.Millisecond, Silence: 10 * time.Millisecond}
	persistence = planetest.Patience{Answer: 2 * time.Second, Silence: 100 * time.Millisecond}
)

// probesPerCheck bounds the packets that are sent after a step.
const probesPerCheck = 160

// reporter is what a *testing.T and a *rapid.T have in common.
type reporter interface {
	Helper()
	Fatalf(string, ...any)
}

// TestMain bounds the histories of an ordinary run; HISTORIES and SEED are those of
// make test-histories.
func TestMain(m *testing.M) {
	flag.Parse()
	set := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { set[f.Name] = true })
	for name, value := range map[string]string{
		"rapid.checks": cmp.Or(os.Getenv("HISTORIES"), "15"),
		"rapid.seed":   cmp.Or(os.Getenv("SEED"), "0"),
	} {
		if set[name] {
			continue
		}
		if err := flag.Set(name, value); err != nil {
			fmt.Fprintf(os.Stderr, "%s=%s: %v\n", name, value, err)
			os.Exit(2)
		}
	}
	os.Exit(m.Run())
}

func TestRandomHistories(t *testing.T) {
	w := planetest.NewWorld(t)
	p := newPlane(t, w)
	rapid.Check(t, func(r *rapid.T) {
		h := drawHistory(r)
		if err := live(h, w, p); err != nil {
			keep(t, h, err)
			r.Fatalf("%v", err)
		}
	})
}

func TestKeptHistories(t *testing.T) {
	files, err := filepath.Glob("testdata/histories/*.yaml")
	if err != nil || len(files) == 0 {
		t.Skipf("none is kept: %v", err)
	}
	w := planetest.NewWorld(t)
	p := newPlane(t, w)
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var h History
			if err := yaml.UnmarshalStrict(text, &h); err != nil {
				t.Fatal(err)
			}
			if err := live(h, w, p); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// keep writes a failing history down; rapid's last one is the smallest.
func keep(t testing.TB, h History, err error) {
	t.Helper()
	text, yamlErr := yaml.Marshal(h)
	if yamlErr == nil {
		comment := "# " + strings.ReplaceAll(err.Error(), "\n", "\n# ") + "\n"
		yamlErr = os.WriteFile("testdata/failed.yaml", append([]byte(comment), text...), 0o644)
	}
	if yamlErr != nil {
		t.Logf("the history is not kept: %v", yamlErr)
	}
}

// live programs a history step by step and compares what packets meet with the
// model.
func live(h History, w *planetest.World, p *plane) error {
	c := newCluster(w.Facts)
	if err := p.clear(); err != nil {
		return fmt.Errorf("clear: %w", err)
	}
	if err := p.begin(c); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	for i, s := range h.Steps {
		c.take(s)
		if s.Restart {
			if err := p.begin(c); err != nil {
				return fmt.Errorf("step %d: restart: %w", i, err)
			}
		} else {
			p.take(s)
		}
		if s.More && i < len(h.Steps)-1 {
			continue
		}
		if err := p.program(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
		if err := compare(c.model(), w, s.Probes); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

// compare sends packets and holds what comes of them to the model.
func compare(m *oracle.Cluster, w *planetest.World, seed uint64) error {
	packets := choose(m, w, seed)
	late, err := ask(m, w, packets, patience, true)
	if err == nil && len(late) > 0 {
		_, err = ask(m, w, late, persistence, false)
	}
	return err
}

// ask tells which packets are to be sent again, where a lack of answers may be for
// lack of time.
func ask(m *oracle.Cluster, w *planetest.World, packets []oracle.Packet, patience planetest.Patience, lenient bool) (late []oracle.Packet, err error) {
	answers, silence := make([]oracle.Answer, len(packets)), make([]bool, len(packets))
	for i, p := range packets {
		answers[i] = m.Answer(p)
		silence[i] = answers[i].Verdict != oracle.Serve && answers[i].Verdict != oracle.Refuse
	}
	heard, err := w.Ask(packets, silence, patience)
	if err != nil {
		return nil, err
	}
	for i, h := range heard {
		switch a := answers[i]; {
		case judge(a, packets[i], h):
		case lenient && errors.Is(h.Err, planetest.ErrSilence):
			late = append(late, packets[i])
		default:
			return nil, fmt.Errorf("%s %s (%s %v), but this came of it: %s", packets[i], a.Verdict, a.Service, a.Endpoints, h)
		}
	}
	return late, nil
}

// judge says whether what was heard of a packet is as the model has it.
func judge(a oracle.Answer, p oracle.Packet, h planetest.Heard) bool {
	refused := errors.Is(h.Err, syscall.ECONNREFUSED)
	silent := errors.Is(h.Err, planetest.ErrSilence)
	switch a.Verdict {
	case oracle.NotOurs: // then it is for a host itself, or for nobody
		return h.Err != nil || h.By == p.To
	case oracle.Refuse:
		return refused
	case oracle.Drop:
		return silent
	case oracle.TurnedAway:
		return refused || silent
	}
	for _, e := range a.Endpoints {
		if e.Addr.Addr() == p.Source && !e.Masqueraded && (silent || h.By == e.Addr) {
			return true // it is not known to be here: nobody can answer a packet of its own
		}
		if e.Addr != h.By || h.Err != nil {
			continue
		}
		if e.Masqueraded || p.From == oracle.Host {
			return h.Saw == nodeAddress(h.Saw)
		}
		return h.Saw == p.Source
	}
	return false
}

// nodeAddress is the address if it is one that the node calls from.
func nodeAddress(a netip.Addr) netip.Addr {
	for _, own := range []string{"172.20.0.11", "fd00:172:20::b"} {
		if a == netip.MustParseAddr(own) {
			return a
		}
	}
	return netip.Addr{}
}

// choose draws packets to all that Services offer, and beside it.
func choose(m *oracle.Cluster, w *planetest.World, seed uint64) []oracle.Packet {
	var dialled []netip.AddrPort
	dial := func(port int32, texts ...string) {
		for _, text := range texts {
			if a, err := netip.ParseAddr(text); err == nil && port > 0 {
				if to := netip.AddrPortFrom(a, uint16(port)); !slices.Contains(dialled, to) && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast() {
					dialled = append(dialled, to)
				}
			}
		}
	}
	for _, s := range m.Services {
		for _, port := range s.Spec.Ports {
			dial(port.Port, s.Spec.ClusterIPs...)
			dial(port.Port, s.Spec.ExternalIPs...)
			for _, in := range s.Status.LoadBalancer.Ingress {
				dial(port.Port, in.IP)
			}
			dial(port.NodePort, "172.20.0.11", "fd00:172:20::b")
		}
		dial(7, s.Spec.ClusterIPs...)
	}
	dial(80, "10.96.0.99", "fd00:10:96::99", "10.96.0.10", "fd00:10:96::a", "192.0.2.1", "172.20.255.1")
	dial(30080, "172.20.0.11", "172.20.0.12", "fd00:172:20::c")
	var all []oracle.Packet
	for _, h := range w.Hosts {
		for _, from := range h.Addresses {
			if h.Place == oracle.Host && from != nodeAddress(from) {
				continue
			}
			for _, to := range dialled {
				for _, protocol := range []corev1.Protocol{"TCP", "UDP"} {
					if to.Addr().Is4() == from.Is4() {
						all = append(all, oracle.Packet{From: h.Place, Source: from, To: to, Protocol: protocol})
					}
				}
			}
		}
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(len(all), probesPerCheck)]
}
