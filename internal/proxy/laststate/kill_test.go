package laststate_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"

	"viaduct.dev/viaduct/internal/proxy/laststate"
	"viaduct.dev/viaduct/internal/servicetable"
)

func newFrontend(s string) servicetable.Frontend {
	ap := netip.MustParseAddrPort(s)
	return servicetable.Frontend{Addr: ap.Addr(), Port: ap.Port(), Protocol: servicetable.TCP}
}

const childPath = "LASTSTATE_TEST_PATH"

func TestMain(m *testing.M) {
	if path := os.Getenv(childPath); path != "" {
		writeForEver(path)
	}
	os.Exit(m.Run())
}

// step changes every Service of a town, so that a table of one revision is told
// from that of another.
func step(w *world, n int) {
	for service := range 100 {
		w.slice(service, discoveryv1.AddressTypeIPv4, 8080, []int{n % 300, (n + 1 + service) % 300})
	}
}

// writeForEver writes as fast as it can and says what it has begun, until it is
// killed or its input ends.
func writeForEver(path string) {
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadByte()
		os.Exit(1)
	}()
	w := town(100)
	for n := 0; ; n++ {
		// A process writes no more often than once a second, but at its end.
		s, err := laststate.Open(path, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		step(w, n)
		if n == 0 {
			s.Replace(w.table.Snapshot())
		} else {
			s.Add(w.table.Flush())
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := s.Run(ctx); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("wrote", n)
	}
}

func TestAKillLeavesATableThatWas(t *testing.T) {
	if testing.Short() {
		t.Skip("kills children for some seconds")
	}
	for kill := range 12 {
		path := filepath.Join(t.TempDir(), "table.db")
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), childPath+"="+path)
		stdin, err := child.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer stdin.Close()
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		child.Stderr = &said
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		wrote := -1
		for lines := bufio.NewScanner(out); wrote < 2+kill/4 && lines.Scan(); {
			if _, err := fmt.Sscanf(lines.Text(), "wrote %d", &wrote); err != nil {
				t.Errorf("the child says %q", lines.Text())
			}
		}
		select { // somewhere in the next writes
		case <-time.After(time.Duration(kill) * 1300 * time.Microsecond):
		case <-t.Context().Done():
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		var exit *exec.ExitError
		if err := child.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
			t.Fatalf("%v: %s", err, &said)
		}
		got := load(t, path)
		if _, err := os.Stat(path + laststate.Aside); err == nil || said.Len() > 0 {
			t.Fatalf("the file was set aside; the child said %q", &said)
		}
		// It has all of one revision: what the child told last, or one before or after.
		w := town(100)
		for n := 0; ; n++ {
			step(w, n)
			all := w.table.Flush()
			if n >= wrote && all.Revision == got.Revision {
				equal(t, got, w.table.Snapshot())
				break
			}
			if n > wrote+1000 {
				t.Fatalf("revision %v is none that was written after %d", got.Revision, wrote)
			}
		}
	}
}
