package kernel

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestThisKernelHasWhatViaductStandsOn(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("probing needs root")
	}
	if err := Check(Namespaces, Overlay, Cgroups, NFTables); err != nil {
		t.Error(err)
	}
}

func TestWhatIsMissingIsNamedWithWhatItNeeds(t *testing.T) {
	tried := 0
	f := &Feature{name: "teleport", needs: "Linux 9.1 with CONFIG_TELEPORT", probe: func() error {
		tried++
		return errors.New("no such device")
	}}
	Check(f)
	err := Check(Namespaces, f)
	if !errors.Is(err, ErrNotSupported) || !strings.Contains(err.Error(), "teleport") || !strings.Contains(err.Error(), "CONFIG_TELEPORT") {
		t.Errorf("%v", err)
	}
	if tried != 1 {
		t.Errorf("tried %d times", tried)
	}
}

func TestAMissingRightIsToldFromAMissingFeature(t *testing.T) {
	f := &Feature{name: "teleport", needs: "Linux 9.1", right: "CAP_TELEPORT", probe: func() error { return os.ErrPermission }}
	err := Check(f)
	if !errors.Is(err, ErrNotPermitted) || errors.Is(err, ErrNotSupported) || !strings.Contains(err.Error(), "CAP_TELEPORT") {
		t.Errorf("%v", err)
	}
}
