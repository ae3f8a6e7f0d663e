package zone

import "net/netip"

// Type is a record's type (RFC 1035 and its successors).
type Type uint16

// The types that the zone has records of.
const (
	A     Type = 1
	NS    Type = 2
	CNAME Type = 5
	SOA   Type = 6
	PTR   Type = 12
	TXT   Type = 16
	AAAA  Type = 28
	SRV   Type = 33
)

// Record is one record of the zone. Which fields count depends on its Type.
type Record struct {
	Name string // fully qualified, in lower case
	Type Type

	Addr   netip.Addr // A, AAAA
	Target string     // CNAME, PTR, SRV, NS: fully qualified
	Port   uint16     // SRV
	Weight uint16     // SRV
	Text   string     // TXT
}

// Answer is what a question is answered with.
type Answer struct {
	// Exists tells NODATA (true, without Records) from NXDOMAIN.
	Exists  bool
	Records []Record
	// Extra are addresses of the targets of SRV records.
	Extra []Record
}
