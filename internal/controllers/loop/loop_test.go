package loop

import (
	"context"
	"log/slog"
	"testing"
	"time"
)

func TestAPanicIsTriedAgainAndStopsNobodyElse(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tries := map[Key]int{}
	done := make(chan struct{})
	l := New("test", slog.New(slog.DiscardHandler), func(_ context.Context, key Key) error {
		tries[key]++
		if key.Name == "bad" && tries[key] < 3 {
			panic("stumbled")
		}
		if len(tries) == 2 && tries[Key{Name: "bad"}] == 3 {
			close(done)
		}
		return nil
	})
	l.Add(Key{Name: "bad"})
	l.Add(Key{Name: "good"})
	ended := make(chan struct{})
	go func() { l.Run(ctx, 1); close(ended) }()
	select {
	case <-done:
	case <-ctx.Done():
		t.Errorf("tries %v", tries)
	}
	cancel()
	<-ended
}
