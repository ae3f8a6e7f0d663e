package images

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// Changed gives a channel that holds one word whenever images have come or gone
// since it was read, whichever process did it, until ctx ends.
func (s *Store) Changed(ctx context.Context) (<-chan struct{}, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch the image store: %w", err)
	}
	if err := w.Add(s.dir); err != nil {
		w.Close()
		return nil, fmt.Errorf("watch the image store: %w", err)
	}
	changed := make(chan struct{}, 1)
	go func() {
		defer w.Close()
		for {
			select {
			case e := <-w.Events:
				if filepath.Base(e.Name) != "index.json" {
					continue
				}
			case <-w.Errors: // words may have been lost
			case <-ctx.Done():
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	return changed, nil
}
