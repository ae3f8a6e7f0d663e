package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/config"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sys/unix"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/utils/clock"
)

const (
	// Less room than this is reported before anything is started.
	minFreeBytes = 32 << 20

	// How often the lone member is told to elect itself, until it has.
	electPause = 2 * time.Millisecond

	compactInterval = 5 * time.Minute
)

// Config says where the data is.
type Config struct {
	// Dir is made if it is missing. One process at a time may use it.
	Dir string
	Log *slog.Logger
}

// Store is a running etcd and its client.
type Store struct {
	dir       string
	lock      *os.File
	etcd      *etcdserver.EtcdServer
	client    *clientv3.Client
	compactor stoppable
	failed    chan error
	broken    atomic.Bool // fail was called
	closing   sync.Once
}

type stoppable interface {
	etcd3.Compactor
	Stop()
}

// Open starts etcd on the directory and returns when it answers.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	processWide()
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	if err := checkRoom(cfg.Dir); err != nil {
		return nil, err
	}
	s := &Store{dir: cfg.Dir, failed: make(chan error, 1)}
	var err error
	if s.lock, err = lockDir(cfg.Dir); err != nil {
		return nil, err
	}
	if err := s.start(ctx, cfg.Log); err != nil {
		s.Close()
		return nil, fmt.Errorf("start etcd in %s: %w", cfg.Dir, err)
	}
	s.client = v3client.New(s.etcd)
	s.compactor = etcd3.NewCompactor(s.client, compactInterval, clock.RealClock{}, nil)
	return s, nil
}

// newClient makes a client in the form that k8s.io/apiserver wants. It costs
// little: there is no connection.
func newClient(server *etcdserver.EtcdServer) *kubernetes.Client {
	client := &kubernetes.Client{Client: v3client.New(server)}
	client.Kubernetes = client
	return client
}

// Failed receives the reason if etcd stops because it can no longer write.
// Requests then hang until their deadline: the process should end.
func (s *Store) Failed() <-chan error { return s.failed }

// Client is the in-process etcd client. It belongs to the store.
func (s *Store) Client() *clientv3.Client { return s.client }

// Close stops etcd. What was acknowledged is on the disk already. An etcd that
// has failed is left as it is, for it would wait for its log for ever.
func (s *Store) Close() { s.closing.Do(s.close) }

func (s *Store) close() {
	if !s.broken.Load() {
		if s.compactor != nil {
			s.compactor.Stop()
		}
		if s.client != nil {
			_ = s.client.Close()
		}
		if s.etcd != nil {
			s.etcd.Stop()
		}
	}
	if s.lock != nil {
		_ = s.lock.Close()
	}
}

func (s *Store) start(ctx context.Context, log *slog.Logger) error {
	cfg, err := serverConfig(filepath.Join(s.dir, "etcd"), newZap(log, s.fail))
	if err != nil {
		return err
	}
	snapshots, err := filepath.Glob(filepath.Join(cfg.SnapDir(), "*.snap"))
	if err != nil {
		return err
	}
	if len(snapshots) == 0 {
		if err := forgetStillborn(cfg); err != nil {
			return err
		}
	}
	fresh := !wal.Exist(cfg.WALDir())
	if err := s.launch(cfg); err != nil {
		return err
	}
	if err := s.elect(ctx, fresh || len(snapshots) > 0); err != nil {
		return err
	}
	if err := unpopulate(filepath.Join(cfg.SnapDir(), "db")); err != nil {
		log.Debug("store: the database stays in memory", "err", err)
	}
	if len(snapshots) == 0 && !raceDetector {
		s.etcd.ForceSnapshot() // for a quick start the next time
	}
	return nil
}

// forgetStillborn removes what a start has left that was killed before its log
// said who the members are: etcd would wait for an election in which nobody may
// vote. Nothing can have been acknowledged before the log's first commit.
func forgetStillborn(cfg config.ServerConfig) error {
	if !wal.Exist(cfg.WALDir()) {
		return nil
	}
	log, err := wal.OpenForRead(cfg.Logger, cfg.WALDir(), &walpb.Snapshot{})
	if err != nil {
		return fmt.Errorf("look into the log: %w", err)
	}
	_, state, _, err := log.ReadAll()
	_ = log.Close()
	// What cannot be read is etcd's to repair or to refuse.
	if err != nil || state.GetCommit() > 0 {
		return nil
	}
	if err := os.RemoveAll(cfg.MemberDir()); err != nil {
		return fmt.Errorf("remove a log without a commit: %w", err)
	}
	return nil
}

// launch starts etcd on a goroutine of its own, which does not come back from
// what etcd calls fatal.
func (s *Store) launch(cfg config.ServerConfig) error {
	started := make(chan error, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil { // the database's panics on a broken disk
				started <- s.explain(fmt.Errorf("%v", r))
			}
		}()
		server, err := etcdserver.NewServer(cfg)
		if err != nil {
			started <- s.explain(err)
			return
		}
		server.Start()
		s.etcd = server
		started <- nil
	}()
	select {
	case err := <-started:
		return err
	case err := <-s.failed:
		return err
	}
}

// elect waits until etcd answers. A member waits for a while of silence before
// it stands for election, up to a second after a restart; one that is alone can
// be told to stand at once, as when a leader hands over.
//
// A log that is replayed from its very first entry forbids that: etcd drops
// this entry from memory as soon as it is applied, maybe a moment before raft
// notes so, and an election in between looks for it and panics (etcd 3.7).
func (s *Store) elect(ctx context.Context, atOnce bool) error {
	server := s.etcd
	self := uint64(server.MemberID())
	stand := &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), From: &self, To: &self}
	tick := time.NewTicker(electPause)
	defer tick.Stop()
	for {
		select {
		case <-server.ReadyNotify():
			return nil
		case <-server.StopNotify():
			return errors.New("etcd stopped while it was starting")
		case err := <-s.failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if !atOnce || server.Lead() != 0 {
				continue
			}
			if err := server.Process(ctx, stand); err != nil {
				return fmt.Errorf("stand for election: %w", err)
			}
		}
	}
}

// fail takes the first fatal error; later ones are consequences.
func (s *Store) fail(err error) {
	s.broken.Store(true)
	select {
	case s.failed <- fmt.Errorf("etcd in %s: %w", s.dir, s.explain(err)):
	default:
	}
}

// explain names a full disk, which etcd reports in many words or in none.
func (s *Store) explain(err error) error {
	if free, statErr := freeBytes(s.dir); statErr == nil && free < walSegmentBytes {
		return fmt.Errorf("disk full, %d KiB free: %w", free>>10, err)
	}
	return err
}

// processWide sets what the libraries keep in package variables. It is done
// before the first store opens, once.
var processWide = sync.OnceFunc(func() {
	wal.SegmentSizeBytes = walSegmentBytes
	feature.DefaultFeatureSupportChecker = embedded{feature.NewDefaultFeatureSupportChecker()}
})

// embedded knows the features of the etcd that is linked in. The stock checker
// asks the endpoints of a client, and this client has none; it stays embedded
// here for the one method whose type it does not export.
type embedded struct{ feature.FeatureSupportChecker }

// Supports reports what the in-process client can do; it has no range stream.
func (embedded) Supports(f storage.Feature) bool { return f == storage.RequestWatchProgress }

// MarkUnsupported has nothing to remember.
func (embedded) MarkUnsupported(storage.Feature) {}

func checkRoom(dir string) error {
	free, err := freeBytes(dir)
	if err != nil {
		return fmt.Errorf("data directory %s: %w", dir, err)
	}
	if free < minFreeBytes {
		return fmt.Errorf("data directory %s: disk full: %d MiB free, %d MiB needed", dir, free>>20, minFreeBytes>>20)
	}
	return nil
}

func freeBytes(dir string) (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, err
	}
	return fs.Bavail * uint64(fs.Bsize), nil
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("data directory %s is in use by another process", dir)
	}
	return f, nil
}
