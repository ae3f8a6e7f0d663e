package nftables

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Cleanup removes our tables, of whatever version, from the network namespace of
// the calling thread. While their owner lives, the kernel refuses.
func Cleanup() error {
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.close()
	s := &Sink{conn: c, flags: tableOwner | tablePersist}
	var errs []error
	for _, f := range []*programmed{{family: ipv4}, {family: ipv6, v6: true}} {
		there, err := c.hasTable(f.proto)
		if err != nil {
			errs = append(errs, fmt.Errorf("read table %s: %w", TableName, err))
			continue
		}
		if !there {
			continue
		}
		if _, err := s.adopt(f, s.flags); err != nil {
			errs = append(errs, err)
			continue
		}
		t := newBatch(f.proto)
		t.deleteTable()
		if err := c.commit(t); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove table %s: %w", TableName, err))
		}
	}
	return errors.Join(errs...)
}
