// Package httpserve keeps a small HTTP server of the proxy's open: it waits for
// an address that another program has, is not held up by whoever hangs, and ends
// with its context.
package httpserve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// retry is how long an address that is taken is left alone.
const retry = 5 * time.Second

// New returns a server for answers that fit into a socket's buffer, so that a
// caller who does not read them holds nothing up.
func New(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: log.New(io.Discard, "", 0), // a caller that leaves is no news
	}
}

// Run answers at address until ctx ends. An address that is taken is told of
// once, and tried again.
func Run(ctx context.Context, address string, h http.Handler, log *slog.Logger) error {
	for told := false; ; told = true {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err == nil {
			return serve(ctx, l, h)
		}
		if !told && ctx.Err() == nil {
			log.Error("an address cannot be served; it is tried again", "address", address, "err", err)
		}
		select {
		case <-time.After(retry):
		case <-ctx.Done():
			return nil
		}
	}
}

func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := New(h)
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}
