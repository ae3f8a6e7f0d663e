package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	corev1 "k8s.io/api/core/v1"
)

// logLine is one line of a log in the CRI format.
type logLine struct {
	time    time.Time
	stamp   string
	stream  string
	text    []byte
	partial bool
}

func parseLogLine(line []byte) (logLine, bool) {
	parts := bytes.SplitN(bytes.TrimSuffix(line, []byte("\n")), []byte(" "), 4)
	if len(parts) < 3 {
		return logLine{}, false
	}
	at, err := time.Parse(time.RFC3339Nano, string(parts[0]))
	if err != nil {
		return logLine{}, false
	}
	l := logLine{time: at, stamp: string(parts[0]), stream: string(parts[1]), partial: string(parts[2]) == "P"}
	if len(parts) == 4 {
		l.text = parts[3]
	}
	return l, true
}

// logFiles are the files of a log, oldest first.
func logFiles(path string) []string {
	var files []string
	for i := 1; ; i++ {
		rotated := fmt.Sprintf("%s.%d", path, i)
		if _, err := os.Stat(rotated); err != nil {
			break
		}
		files = append([]string{rotated}, files...)
	}
	return append(files, path)
}

// logWriter writes lines as a reader asked for them.
type logWriter struct {
	out   io.Writer
	opts  *corev1.PodLogOptions
	since time.Time
	left  int64 // bytes, or negative for no limit
	mid   bool  // the last line written was partial
}

var errEnough = errors.New("enough was written")

func newLogWriter(out io.Writer, opts *corev1.PodLogOptions, now time.Time) *logWriter {
	w := &logWriter{out: out, opts: opts, left: -1}
	if opts.LimitBytes != nil {
		w.left = *opts.LimitBytes
	}
	if opts.SinceTime != nil {
		w.since = opts.SinceTime.Time
	} else if opts.SinceSeconds != nil {
		w.since = now.Add(-time.Duration(*opts.SinceSeconds) * time.Second)
	}
	return w
}

func (w *logWriter) wants(l logLine) bool {
	if s := w.opts.Stream; s != nil && *s != "" && *s != corev1.LogStreamAll && !strings.EqualFold(*s, l.stream) {
		return false
	}
	return !l.time.Before(w.since)
}

func (w *logWriter) write(l logLine) error {
	var b []byte
	if w.opts.Timestamps && !w.mid {
		b = append(append(b, l.stamp...), ' ')
	}
	b = append(b, l.text...)
	if !l.partial {
		b = append(b, '\n')
	}
	w.mid = l.partial
	if w.left >= 0 && int64(len(b)) >= w.left {
		b = b[:w.left]
		w.out.Write(b)
		return errEnough
	}
	w.left -= int64(len(b))
	_, err := w.out.Write(b)
	return err
}

// writeLog writes a container's log. With opts.Follow it goes on until the
// container has ended.
func writeLog(ctx context.Context, path string, ended <-chan struct{}, opts *corev1.PodLogOptions, out io.Writer, flush func()) error {
	w := newLogWriter(out, opts, time.Now())
	var changes *fsnotify.Watcher
	if opts.Follow {
		var err error
		if changes, err = fsnotify.NewWatcher(); err != nil {
			return err
		}
		defer changes.Close()
		if err := changes.Add(path[:strings.LastIndexByte(path, '/')]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	file, rest, err := writeOld(w, path)
	if file != nil {
		defer func() { file.Close() }()
	}
	if errors.Is(err, errEnough) || file == nil && errors.Is(err, fs.ErrNotExist) && !opts.Follow {
		return nil
	}
	if err != nil {
		return err
	}
	flush()
	if !opts.Follow {
		return nil
	}
	in := bufio.NewReader(file)
	for {
		over := false
		select {
		case <-ended:
			over = true
		default:
		}
		for {
			part, err := in.ReadBytes('\n')
			rest = append(rest, part...)
			if err != nil {
				break
			}
			if l, ok := parseLogLine(rest); ok && w.wants(l) {
				if err := w.write(l); err != nil {
					if errors.Is(err, errEnough) {
						return nil
					}
					return err
				}
			}
			rest = nil
		}
		flush()
		// A log that was rotated goes on in a new file.
		if was, err := file.Stat(); err == nil {
			if is, err := os.Stat(path); err == nil && !os.SameFile(was, is) {
				next, err := os.Open(path)
				if err != nil {
					return err
				}
				file.Close()
				file = next
				in.Reset(file)
				continue
			}
		}
		if over {
			return nil
		}
		select {
		case <-changes.Events:
		case err := <-changes.Errors:
			return err
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// writeOld writes what the log holds already. It gives the newest file, read to
// its end, and the beginning of a line that is not whole yet.
func writeOld(w *logWriter, path string) (*os.File, []byte, error) {
	var kept []logLine
	tail := -1
	if w.opts.TailLines != nil {
		tail = int(*w.opts.TailLines)
	}
	var last *os.File
	var rest []byte
	for _, name := range logFiles(path) {
		f, err := os.Open(name)
		if err != nil {
			return last, nil, err
		}
		if last != nil {
			last.Close()
		}
		last, rest = f, nil
		in := bufio.NewReader(f)
		for {
			line, err := in.ReadBytes('\n')
			if err != nil {
				rest = line
				break
			}
			l, ok := parseLogLine(line)
			if !ok || !w.wants(l) {
				continue
			}
			if tail < 0 {
				if err := w.write(l); err != nil {
					return last, nil, err
				}
				continue
			}
			kept = append(kept, l)
			if len(kept) > 2*tail+1024 {
				kept = append([]logLine(nil), lastLines(kept, tail)...)
			}
		}
	}
	if tail >= 0 {
		for _, l := range lastLines(kept, tail) {
			if err := w.write(l); err != nil {
				return last, nil, err
			}
		}
	}
	return last, rest, nil
}

// lastLines are the last n whole lines, parts of one being counted once.
func lastLines(lines []logLine, n int) []logLine {
	for i := len(lines) - 1; i >= 0; i-- {
		if !lines[i].partial {
			if n == 0 {
				return lines[i+1:]
			}
			n--
		}
	}
	return lines
}

// logTail is the end of a log's text.
func logTail(path string, limit int) string {
	n := int64(80)
	var b bytes.Buffer
	err := writeLog(context.Background(), path, nil, &corev1.PodLogOptions{TailLines: &n}, &b, func() {})
	text := b.String()
	if err != nil || len(text) <= limit {
		return text
	}
	return text[len(text)-limit:]
}
