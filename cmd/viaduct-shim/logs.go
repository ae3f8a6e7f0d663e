//go:build linux && cgo

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// The log of a container is kept in maxLogFiles files of about maxLogSize bytes:
// LogPath and, older, LogPath.1 and so on.
const (
	maxLogSize  = 10 << 20
	maxLogFiles = 5
	// maxLogLine splits a longer line into parts, as the CRI does.
	maxLogLine = 16 << 10
	// maxLogTail is how far a file may grow for the sake of a line that has begun;
	// one that never ends is cut here.
	maxLogTail = 1 << 20
)

// logWriter writes a container's streams in the CRI log format:
//
//	2026-01-02T15:04:05.999999999Z stdout F a whole line
//	2026-01-02T15:04:05.999999999Z stderr P the first part of a long one
type logWriter struct {
	path string
	wg   sync.WaitGroup

	mu   sync.Mutex
	file *os.File // nil while it cannot be opened: the container goes on
	size int64
}

func newLogWriter(path string) (*logWriter, error) {
	w := &logWriter{path: path}
	if path == "" {
		return w, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return w, w.open()
}

func (w *logWriter) open() error {
	f, err := os.OpenFile(w.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("open the log: %w", err)
	}
	w.file, w.size = f, info.Size()
	return nil
}

// stream gives a writer whose lines are logged as name's.
func (w *logWriter) stream(name string) io.WriteCloser {
	r, out := io.Pipe()
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		in := bufio.NewReaderSize(r, maxLogLine)
		for {
			line, err := in.ReadSlice('\n')
			if len(line) > 0 {
				w.write(name, line)
			}
			if err != nil && err != bufio.ErrBufferFull {
				io.Copy(io.Discard, r)
				return
			}
		}
	}()
	return out
}

func (w *logWriter) write(stream string, line []byte) {
	tag := "P"
	text := string(line)
	if strings.HasSuffix(text, "\n") {
		tag, text = "F", text[:len(text)-1]
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil && (w.path == "" || w.open() != nil) {
		return
	}
	// A full disk loses log lines, never the container.
	n, _ := fmt.Fprintf(w.file, "%s %s %s %s\n", time.Now().UTC().Format(time.RFC3339Nano), stream, tag, text)
	w.size += int64(n)
	if w.size > maxLogSize && tag == "F" || w.size > maxLogSize+maxLogTail {
		w.rotate()
	}
}

func (w *logWriter) rotate() {
	w.file.Close()
	w.file = nil
	for i := maxLogFiles - 1; i > 1; i-- {
		os.Rename(fmt.Sprintf("%s.%d", w.path, i-1), fmt.Sprintf("%s.%d", w.path, i))
	}
	os.Rename(w.path, w.path+".1")
	w.open()
}

// Close waits until all streams have ended and what they wrote is in the file.
func (w *logWriter) Close() {
	w.wg.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file != nil {
		w.file.Close()
		w.file = nil
	}
}
