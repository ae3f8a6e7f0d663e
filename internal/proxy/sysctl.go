package proxy

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Conntrack is how connection tracking is to be set: kube-proxy's --conntrack-*.
// Zero values leave alone what is set.
type Conntrack struct {
	// MaxPerCore and Min bound the number of connections. They are the whole
	// machine's, so only a proxy in the host's own network namespace sets them.
	MaxPerCore, Min                              int32
	TCPEstablished, TCPCloseWait, UDP, UDPStream time.Duration
	// TCPBeLiberal lets packets pass that are out of a connection's window.
	TCPBeLiberal bool
}

// maxConnections bounds what many cores would ask for.
const maxConnections = 1 << 20

// Set sets the sysctls of this network namespace. What the kernel does not let
// be set, as in a container whose /proc/sys is read-only, is told and left.
func (c Conntrack) Set(log *slog.Logger) error {
	set := func(path string, value int64) error {
		if have, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(have)) == strconv.FormatInt(value, 10) {
			return nil
		}
		err := os.WriteFile(path, strconv.AppendInt(nil, value, 10), 0)
		switch {
		case err == nil:
			log.Info("sysctl set", "path", path, "value", value)
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
			log.Warn("a sysctl cannot be set here; it is left as it is", "path", path, "value", value, "err", err)
		default:
			return fmt.Errorf("set %s: %w", path, err)
		}
		return nil
	}
	const dir = "/proc/sys/net/netfilter/nf_conntrack_"
	var errs []error
	if limit := int64(c.limit(runtime.NumCPU())); limit > 0 && initialNamespace() {
		if read(dir+"max") < limit {
			errs = append(errs, set(dir+"max", limit))
		}
		if size := "/sys/module/nf_conntrack/parameters/hashsize"; read(size) < limit/4 {
			errs = append(errs, set(size, limit/4))
		}
	}
	for name, d := range map[string]time.Duration{
		"tcp_timeout_established": c.TCPEstablished, "tcp_timeout_close_wait": c.TCPCloseWait,
		"udp_timeout": c.UDP, "udp_timeout_stream": c.UDPStream,
	} {
		if d >= time.Second {
			errs = append(errs, set(dir+name, int64(d/time.Second)))
		}
	}
	if c.TCPBeLiberal {
		errs = append(errs, set(dir+"tcp_be_liberal", 1))
	}
	return errors.Join(errs...)
}

// limit is how many connections there may be on so many cores; 0 leaves it.
func (c Conntrack) limit(cores int) int {
	if c.MaxPerCore <= 0 {
		return 0
	}
	return min(maxConnections, max(int(c.Min), int(c.MaxPerCore)*cores))
}

// read is a number in a file; 0 if there is none.
func read(path string) int64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n
}
