// Package address says which addresses are nobody's to give away: those that
// mean the machine itself, its link, or everybody.
package address

import "net/netip"

// Problem says, in Kubernetes' own words, why an address may not stand for a
// Service or an endpoint; it is empty for one that may.
func Problem(a netip.Addr) string {
	switch {
	case a.IsUnspecified():
		return "may not be unspecified (0.0.0.0 or ::)"
	case a.IsLoopback():
		return "may not be in the loopback range (127.0.0.0/8, ::1/128)"
	case a.IsLinkLocalUnicast():
		return "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
	case a.IsLinkLocalMulticast():
		return "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
	}
	return ""
}
