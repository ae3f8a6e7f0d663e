package main

import (
	"context"
	"net/http"
	"time"
)

// awaitHealthy waits until the proxy's own /healthz, on kube-proxy's port, says
// yes.
func (b *bench) awaitHealthy(ctx context.Context, r *running) (time.Time, error) {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DialContext: b.net.Node.DialContext, DisableKeepAlives: true}}
	deadline := time.Now().Add(b.limit)
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:10256/healthz", nil)
		if err != nil {
			return time.Time{}, err
		}
		if answer, err := client.Do(request); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return time.Now(), nil
			}
		}
		if err := r.over(); err != nil {
			return time.Time{}, err
		}
		if time.Now().After(deadline) {
			return time.Time{}, errLimit
		}
		time.Sleep(3 * time.Millisecond)
	}
}
