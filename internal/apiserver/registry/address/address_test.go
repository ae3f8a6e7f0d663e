package address

import (
	"net/netip"
	"strings"
	"testing"
)

func TestProblem(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.1": "", "2001:db8::1": "", "224.0.1.1": "",
		"0.0.0.0": "unspecified", "::": "unspecified", "127.0.0.1": "loopback", "::1": "loopback",
		"169.254.1.1": "link-local range", "fe80::1": "link-local range", "224.0.0.1": "multicast", "ff02::1": "multicast",
	} {
		if got := Problem(netip.MustParseAddr(text)); got == "" != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
