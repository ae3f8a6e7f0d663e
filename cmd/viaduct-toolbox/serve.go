package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// server answers on any number of addresses.
type server struct {
	hostname, version string
	notReady          atomic.Bool
	exit              chan exitCode
}

// serve listens until SIGTERM, then refuses new connections and finishes those
// that are under way.
func serve(ctx context.Context, args []string, out io.Writer) error {
	var https, tcps, udps []string
	var drain time.Duration
	s := &server{exit: make(chan exitCode, 1)}
	list := func(to *[]string) func(string) error {
		return func(v string) error { *to = append(*to, v); return nil }
	}
	_, err := flags("serve", args, 0, 0, func(fs *flag.FlagSet) {
		fs.Func("http", "an address such as :5000", list(&https))
		fs.Func("tcp", "an address such as :5001", list(&tcps))
		fs.Func("udp", "an address such as :5001", list(&udps))
		fs.StringVar(&s.version, "version", os.Getenv("VERSION"), "what it says of itself")
		fs.DurationVar(&drain, "drain", 10*time.Second, "how long requests under way may take at the end")
	})
	if err != nil {
		return err
	}
	if len(https)+len(tcps)+len(udps) == 0 {
		https = []string{":8080"}
	}
	if s.hostname, err = os.Hostname(); err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, addr := range tcps {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, "tcp", l.Addr())
		context.AfterFunc(ctx, func() { l.Close() })
		wg.Go(func() { s.serveTCP(l) })
	}
	for _, addr := range udps {
		c, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, "udp", c.LocalAddr())
		context.AfterFunc(ctx, func() { c.Close() })
		wg.Go(func() { s.serveUDP(c) })
	}
	web := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second}
	for _, addr := range https {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, "http", l.Addr())
		wg.Go(func() { web.Serve(l) })
	}

	select {
	case code := <-s.exit:
		return code
	case <-ctx.Done():
	}
	fmt.Fprintln(out, "terminating")
	done, stop := context.WithTimeout(context.Background(), drain)
	defer stop()
	if err := web.Shutdown(done); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	fmt.Fprintln(out, "done")
	return nil
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, s.about("http", r.RemoteAddr, r.Context().Value(http.LocalAddrContextKey).(net.Addr)))
		fmt.Fprintf(w, "host: %s\nrequest: %s %s %s\n", r.Host, r.Method, r.URL, r.Proto)
	})
	mux.HandleFunc("/hostname", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, s.hostname) })
	mux.HandleFunc("/version", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, s.version) })
	mux.HandleFunc("/client", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RemoteAddr) })
	mux.HandleFunc("/env", func(w http.ResponseWriter, _ *http.Request) {
		env := os.Environ()
		sort.Strings(env)
		fmt.Fprintln(w, strings.Join(env, "\n"))
	})
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) { r.Header.Write(w) })
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		if s.notReady.Load() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.HandleFunc("/ready/{state}", func(w http.ResponseWriter, r *http.Request) {
		s.notReady.Store(r.PathValue("state") == "off")
		fmt.Fprintln(w, "ready:", !s.notReady.Load())
	})
	mux.HandleFunc("/delay/{duration}", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(r.PathValue("duration"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		select {
		case <-time.After(d):
			fmt.Fprint(w, s.hostname)
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("/exit/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.ParseUint(r.PathValue("code"), 10, 8)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintln(w, "exiting")
		select {
		case s.exit <- exitCode(code):
		default:
		}
	})
	return mux
}

func (s *server) about(protocol, caller string, local net.Addr) string {
	return fmt.Sprintf("hostname: %s\nversion: %s\nprotocol: %s\ncaller: %s\nserver: %s\n", s.hostname, s.version, protocol, caller, local)
}

// serveTCP tells each caller who answers, then echoes its lines.
func (s *server) serveTCP(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			fmt.Fprint(conn, s.about("tcp", conn.RemoteAddr().String(), conn.LocalAddr()))
			lines := bufio.NewScanner(conn)
			for lines.Scan() {
				if _, err := fmt.Fprintf(conn, "%s\n", lines.Bytes()); err != nil {
					return
				}
			}
		}()
	}
}

// serveUDP answers each datagram with who answers, the caller, and its text.
func (s *server) serveUDP(c net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		fmt.Fprintf(&packetWriter{c, from}, "hostname: %s caller: %s text: %s\n", s.hostname, from, strings.TrimSpace(string(buf[:n])))
	}
}

// packetWriter sends each write as one datagram.
type packetWriter struct {
	conn net.PacketConn
	to   net.Addr
}

func (w *packetWriter) Write(p []byte) (int, error) { return w.conn.WriteTo(p, w.to) }
