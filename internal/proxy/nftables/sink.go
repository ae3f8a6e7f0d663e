package nftables

import (
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/servicetable"
)

// Config shapes the rules. It is constant for the life of a Sink.
type Config struct {
	// Local tells how packets of Pods are known.
	Local LocalTraffic
	// MasqueradeAll hides every caller of a cluster IP by the node's address.
	MasqueradeAll bool
	// RandomFully draws the source ports of hidden callers at random.
	RandomFully bool
	Log         *slog.Logger

	// plain makes tables as before Linux 6.9, without an owner.
	plain bool
}

// LocalTraffic is how packets of Pods are known (kube-proxy's
// --detect-local-mode): by the interface that they come in by or, where both are
// empty, by Node.LocalCIDRs. Interfaces need Linux 5.6.
type LocalTraffic struct {
	Bridge          string // its name
	InterfacePrefix string // how the names of all begin
}

// Sink programs one network namespace: that of the thread which opens it. It is
// not safe for concurrent use, but for Lost.
type Sink struct {
	cfg      Config
	node     Node
	conn     *conn
	flags    uint32 // of tables
	families []*programmed
	monitor  *monitor // nil while the tables are owned
	labels   []string // of pools by number: whose they are
}

// programmed is a family's table.
type programmed struct {
	family
	v6 bool
	// fresh says that the table must be made, with all its rules; replace that
	// another one of its name is there; bound are the clients that it binds.
	fresh, replace bool
	bound          []element
	// stale is what an earlier process has left and nobody has asked for yet, by
	// set and key; nil once the first Diff has been applied.
	stale map[string]map[at]string
}

// Open finds the tables of an earlier process, whose contents Prior tells: hand
// it to the servicetable's Adopt, and its Snapshot to Apply. What is not there or
// has another version's rules is made by the first Apply, in one transaction with
// its data: until then the old one serves.
func Open(cfg Config, node Node) (*Sink, servicetable.Prior, error) {
	if err := cfg.Local.validate(); err != nil {
		return nil, servicetable.Prior{}, err
	}
	c, err := dial()
	if err != nil {
		return nil, servicetable.Prior{}, err
	}
	s := &Sink{cfg: cfg, node: node, conn: c, flags: tableOwner | tablePersist, families: []*programmed{{family: ipv4}, {family: ipv6, v6: true}}}
	if cfg.plain {
		s.flags = 0
	}
	prior := noPrior()
	for _, f := range s.families {
		if err := s.find(f, &prior); err != nil {
			s.Close()
			return nil, prior, err
		}
	}
	return s, prior, nil
}

func (l LocalTraffic) validate() error {
	for _, name := range []string{l.Bridge, l.InterfacePrefix} {
		if len(name) >= unix.IFNAMSIZ {
			return fmt.Errorf("interface name %q: longer than %d characters", name, unix.IFNAMSIZ-1)
		}
	}
	return nil
}

// Close gives the sockets back. The tables stay.
func (s *Sink) Close() {
	if s.monitor != nil {
		s.monitor.close()
	}
	s.conn.close()
}
