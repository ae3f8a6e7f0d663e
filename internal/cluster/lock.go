package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/cluster/box"
)

// errBusy says that somebody holds the lock.
var errBusy = errors.New("the cluster is running")

// lock takes the lock of a cluster whose directory is there. It is held until
// every copy of the file is closed, or its holders are dead.
func lock(dir box.Dir) (*os.File, error) {
	for {
		f, err := os.OpenFile(dir.Lock(), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock the cluster: %w", err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, errBusy
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock the cluster: %w", err)
		}
		// Between opening and locking, `down` may have removed the file.
		mine, err := f.Stat()
		if err == nil {
			var there os.FileInfo
			if there, err = os.Stat(dir.Lock()); err == nil && os.SameFile(mine, there) {
				return f, nil
			}
		}
		f.Close()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("lock the cluster: %w", err)
		}
		if _, err := os.Stat(string(dir)); err != nil {
			return nil, fmt.Errorf("lock the cluster: %w", err)
		}
	}
}

// waitForLock takes the lock as soon as nobody holds it.
func waitForLock(ctx context.Context, dir box.Dir) (*os.File, error) {
	for {
		f, err := lock(dir)
		if !errors.Is(err, errBusy) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, errBusy
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// running says whether somebody holds the lock.
func running(dir box.Dir) bool {
	f, err := os.OpenFile(dir.Lock(), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}
