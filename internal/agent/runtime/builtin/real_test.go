package builtin

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"viaduct.dev/viaduct/internal/agent/runtime"
	"viaduct.dev/viaduct/internal/images"
	"viaduct.dev/viaduct/internal/images/imagetest"
	"viaduct.dev/viaduct/internal/lab"
)

func TestRealRedisAndNginxRun(t *testing.T) {
	if testing.Short() {
		t.Skip("images of real programs are left out with -short")
	}
	h := newHost(t)
	store, err := images.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		archive, name string
		talk          func(ns *lab.Namespace) error
	}{
		{imagetest.Redis(t), "redis:test", func(ns *lab.Namespace) error {
			conn, err := ns.DialContext(t.Context(), "tcp", "127.0.0.1:6379")
			if err != nil {
				return err
			}
			defer conn.Close()
			io.WriteString(conn, "PING\r\n")
			b := make([]byte, 7)
			if _, err := io.ReadFull(conn, b); err != nil || string(b) != "+PONG\r\n" {
				t.Errorf("redis: %q %v", b, err)
			}
			return nil
		}},
		{imagetest.Nginx(t), "nginx:test", func(ns *lab.Namespace) error {
			client := http.Client{Transport: &http.Transport{DialContext: ns.DialContext, DisableKeepAlives: true}}
			resp, err := client.Get("http://127.0.0.1:80/")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if body, _ := io.ReadAll(resp.Body); !strings.HasPrefix(resp.Header.Get("Server"), "nginx") {
				t.Errorf("nginx: %v %s", resp.Header, body)
			}
			return nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := store.Load(t.Context(), c.archive); err != nil {
				t.Fatal(err)
			}
			img, err := store.Lookup(c.name)
			if err != nil {
				t.Fatal(err)
			}
			p, cfg := h.pod(t)
			cc := runtime.ContainerConfig{
				ID: "c", Name: "c", Layers: img.Layers, Args: append(img.Entrypoint, img.Cmd...), Env: img.Env,
				User: img.User, WorkingDir: img.WorkingDir, LogPath: filepath.Join(cfg.StateDir, "log"),
			}
			run(t, p, cc)
			ns, err := lab.Open(p.NetNS())
			if err != nil {
				t.Fatal(err)
			}
			defer ns.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			for {
				err := c.talk(ns)
				if err == nil {
					break
				}
				if _, refused := err.(net.Error); ctx.Err() != nil || !refused && !strings.Contains(err.Error(), "refused") {
					t.Fatalf("%v; its log:\n%s", err, logText(t, cc))
				}
			}
		})
	}
}
