package store

import (
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/config"
	"go.etcd.io/etcd/server/v3/features"
	"go.uber.org/zap"
	"golang.org/x/crypto/bcrypt"
)

const (
	memberName = "viaduct"
	// A member must announce URLs; nothing listens there.
	peerURL   = "http://127.0.0.1:2380"
	clientURL = "http://127.0.0.1:2379"

	// The log is preallocated in segments, two of them at the start.
	walSegmentBytes = 4 << 20
	// The database may grow to this size before writes are refused.
	quotaBytes = 8 << 30

	// A snapshot of the raft log is taken after so many writes. What was written
	// since is replayed at a restart, and must all be in memory meanwhile (see
	// elect): the entries that are kept outnumber those that can follow a
	// snapshot, by far.
	snapshotCount  = 2000
	catchUpEntries = 10000

	// Older files of each kind than so many are deleted.
	keptFiles = 5
)

// serverConfig is that of a cluster of one member without listeners. It is what
// go.etcd.io/etcd/server/v3/embed makes of its defaults; that package would
// bring listeners and gateways that nobody uses here.
func serverConfig(dir string, log *zap.Logger) (config.ServerConfig, error) {
	peers, err := types.NewURLs([]string{peerURL})
	if err != nil {
		return config.ServerConfig{}, err
	}
	clients, err := types.NewURLs([]string{clientURL})
	if err != nil {
		return config.ServerConfig{}, err
	}
	return config.ServerConfig{
		Name:                memberName,
		ClientURLs:          clients,
		PeerURLs:            peers,
		InitialPeerURLsMap:  types.URLsMap{memberName: peers},
		InitialClusterToken: "etcd-cluster",
		NewCluster:          true,
		DataDir:             dir,
		Logger:              log,
		V2Deprecation:       config.V2DeprDefault,
		ServerFeatureGate:   features.NewDefaultServerFeatureGate(memberName, log),

		TickMs:                     100,
		ElectionTicks:              10,
		InitialElectionTickAdvance: true,
		PreVote:                    true,
		StrictReconfigCheck:        true,
		MaxLearners:                1,

		SnapshotCount:          snapshotCount,
		SnapshotCatchUpEntries: catchUpEntries,
		MaxSnapFiles:           keptFiles,
		MaxWALFiles:            keptFiles,
		QuotaBackendBytes:      quotaBytes,
		BackendFreelistType:    bolt.FreelistMapType,

		MaxTxnOps:                   128,
		MaxRequestBytes:             1.5 * 1024 * 1024,
		AuthToken:                   "simple",
		BcryptCost:                  uint(bcrypt.DefaultCost),
		TokenTTL:                    300,
		WarningApplyDuration:        100 * time.Millisecond,
		WarningUnaryRequestDuration: 300 * time.Millisecond,
		CompactHashCheckTime:        time.Minute,
		DowngradeCheckTime:          5 * time.Second,
		Metrics:                     "basic",
	}, nil
}
