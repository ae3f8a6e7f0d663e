// Package labtest gives tests hosts that go away with them.
package labtest

import (
	"os"
	"testing"

	"viaduct.dev/viaduct/internal/lab"
)

// NeedRoot skips a test that makes namespaces when it is not run as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
}

// New makes a namespace that is closed when the test ends.
func New(t testing.TB) *lab.Namespace {
	t.Helper()
	NeedRoot(t)
	ns, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}
