package servicetable

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Protocol is the number of a transport protocol in the IP header.
type Protocol uint8

// The protocols that Services have.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String is the protocol in lower case.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return strconv.Itoa(int(p))
}

func protocol(p corev1.Protocol) (Protocol, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return TCP, true
	case corev1.ProtocolUDP:
		return UDP, true
	case corev1.ProtocolSCTP:
		return SCTP, true
	}
	return 0, false
}

// Frontend is anything that a client can dial. A node port has the unspecified
// address of its family.
type Frontend struct {
	Addr     netip.Addr
	Port     uint16
	Protocol Protocol
}

// IsNodePort says whether it stands for a port on the node's own addresses.
func (f Frontend) IsNodePort() bool { return f.Addr.IsUnspecified() }

// Compare orders frontends by address, port and protocol.
func (f Frontend) Compare(g Frontend) int {
	return cmp.Or(f.Addr.Compare(g.Addr), cmp.Compare(f.Port, g.Port), cmp.Compare(f.Protocol, g.Protocol))
}

// String is such as 10.96.0.10:53/udp.
func (f Frontend) String() string {
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(f.Addr, f.Port), f.Protocol)
}

// PoolID names a pool in a data plane: its number in the low 20 bits, the class
// of its session affinity in the high 4, nothing between. 0 is no pool.
type PoolID uint32

// MaxPools is how many pools there can be.
const MaxPools = 1<<20 - 1

const affinityShift = 28

func poolID(number uint32, class uint8) PoolID {
	return PoolID(uint32(class)<<affinityShift | number)
}

func (id PoolID) number() uint32 { return uint32(id) & MaxPools }

// AffinityClass is 0 for a pool without session affinity, else an index into
// AffinitySeconds plus one.
func (id PoolID) AffinityClass() uint8 { return uint8(id >> affinityShift) }

// AffinitySeconds are the time-outs that session affinity can have. A Service's
// own is rounded up to one of them: a data plane has a constant rule for each.
var AffinitySeconds = [15]int32{10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 10800, 21600, 43200, 64800, 86400}

func affinityClass(svc *corev1.Service) uint8 {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := int32(corev1.DefaultClientIPServiceAffinitySeconds)
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	for i, s := range AffinitySeconds {
		if seconds <= s {
			return uint8(i + 1)
		}
	}
	return uint8(len(AffinitySeconds))
}

// Verdict is what becomes of a new connection to a frontend.
type Verdict uint8

// The verdicts. None is that of a frontend that is not there.
const (
	None   Verdict = iota
	Serve          // by the view's pool
	Refuse         // nobody serves it anywhere
	Drop           // somebody does, but nobody where the policy allows
)

// View is what one side of a frontend leads to.
type View struct {
	Verdict Verdict
	Pool    PoolID
	Size    uint32 // of the pool
}

// Hide is which callers of a frontend are hidden from its backends by this node's
// address, because their answers must come back through this node.
type Hide uint8

// Who is hidden. A data plane hides, besides, a backend that is sent to itself.
const (
	HideNobody     Hide = iota
	HideOffCluster      // all but Pods of the cluster: cluster IPs
	HideEverybody       // external traffic policy Cluster
	HideNode            // the node itself, whose address may be the frontend's: policy Local
)

// Target is what a frontend leads to. The zero value is a frontend that is not
// there.
type Target struct {
	// Service is the Service's port: namespace/name:port.
	Service string
	// Internal is the view of this node and its Pods, External everybody else's.
	Internal, External View
	// Hide is whose address the backend shall not see: it sees this node's.
	Hide Hide
	// Guarded says that only callers from the frontend's source ranges are let
	// in; others are dropped.
	Guarded bool
}

// Diff is what changed. It is valid until the next call of the Table.
type Diff struct {
	Frontends []FrontendChange
	Slots     []SlotChange
	// Local are the addresses of backends on this node that came and went.
	Local []LocalChange
	// Gone are the backends that frontends lost.
	Gone []Gone
	// Sources are the source ranges of guarded frontends that came and went.
	Sources []SourceChange
	// Health is what health-check node ports are to say from now on.
	Health []HealthChange
	// Conflicts are Services that from now on lack a frontend which another has.
	Conflicts []Conflict
	// Overflows are pools that from now on take not all endpoints that they should.
	Overflows []Overflow
	// Revision is what the table contains after the change.
	Revision Revision
}

// Empty says whether nothing changed that a data plane programs.
func (d Diff) Empty() bool {
	return len(d.Frontends) == 0 && len(d.Slots) == 0 && len(d.Local) == 0 && len(d.Sources) == 0
}

// FrontendChange is a frontend whose target changed.
type FrontendChange struct {
	Frontend Frontend
	Old, New Target
}

// SlotChange is a slot whose backend changed. The zero AddrPort is an empty slot.
type SlotChange struct {
	Pool     PoolID
	Slot     uint32
	Old, New netip.AddrPort
}

// LocalChange is an address of a backend on this node that came or went.
type LocalChange struct {
	Addr  netip.Addr
	Added bool
}

// Gone is a backend that a frontend leads to no more, from wherever it is dialed.
type Gone struct {
	Frontend Frontend
	Backend  netip.AddrPort
	// Serving says that it is still an endpoint that answers: one that ends while
	// others are ready, or that hints give to others. Such a one keeps its flows
	// and gets no new ones.
	Serving bool
	// Affinity says that clients may have been bound to it.
	Affinity bool
}

// SourceChange is a range of callers that a guarded frontend lets in, or no more.
type SourceChange struct {
	Frontend Frontend
	Range    netip.Prefix
	Added    bool
}

// HealthChange is what a Service's healthCheckNodePort says: how many of its
// endpoints on this node are ready. A port of 0 takes it away.
type HealthChange struct {
	Service types.NamespacedName
	Port    uint16
	Local   int
}

// Conflict is a frontend that a Service asks for and another one has.
type Conflict struct {
	Frontend      Frontend
	Service, With types.NamespacedName
}

// Overflow is a Service port with more endpoints than MaxEndpoints, or without a
// pool since there are MaxPools.
type Overflow struct {
	Service           types.NamespacedName
	Port              string // namespace/name:port
	Endpoints, Served int
}

// Revision is the newest resourceVersion of each kind that a table contains,
// deletions with theirs. The API lets versions of one kind be compared as numbers
// (KEP-5504): what is not a number says nothing, and an older one changes nothing.
type Revision struct {
	Services, EndpointSlices uint64
}

func newer(have uint64, version string) uint64 {
	if v, err := strconv.ParseUint(version, 10, 64); err == nil && v > have {
		return v
	}
	return have
}
