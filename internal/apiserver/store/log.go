package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newZap routes etcd's log into log, warnings and worse. fail is told of what
// etcd cannot go on after; the goroutine that logged it then ends, the process
// does not.
func newZap(log *slog.Logger, fail func(error)) *zap.Logger {
	end := fatal{log: log, fail: fail}
	return zap.New(core{log: log.With("part", "etcd")}, zap.WithFatalHook(end), zap.WithPanicHook(end))
}

type core struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func (c core) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

func (c core) With(fields []zapcore.Field) zapcore.Core {
	c.fields = append(append([]zapcore.Field(nil), c.fields...), fields...)
	return c
}

func (c core) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

// tooSoon is an error that etcd logs when it is asked for its storage version
// within milliseconds of its election; it asks itself again later.
const tooSoon = "failed to update storage version"

// Write puts etcd's warnings (slow disk, slow request) at debug level: they
// tell a developer something, and a user nothing that he can act on.
func (c core) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelDebug
	if entry.Level >= zapcore.ErrorLevel && entry.Message != tooSoon {
		level = slog.LevelError
	}
	encoder := zapcore.NewMapObjectEncoder()
	for _, f := range append(append([]zapcore.Field(nil), c.fields...), fields...) {
		f.AddTo(encoder)
	}
	attrs := make([]slog.Attr, 0, len(encoder.Fields))
	for key, value := range encoder.Fields {
		attrs = append(attrs, slog.Any(key, value))
	}
	c.log.LogAttrs(context.Background(), level, entry.Message, attrs...)
	return nil
}

func (core) Sync() error { return nil }

// fatal is what happens after a message at the level of fatal or panic.
type fatal struct {
	log  *slog.Logger
	fail func(error)
}

func (f fatal) OnWrite(entry *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := errors.New(entry.Message)
	for _, field := range fields {
		if cause, ok := field.Interface.(error); ok && field.Type == zapcore.ErrorType {
			err = fmt.Errorf("%s: %w", entry.Message, cause)
		}
	}
	f.log.Debug("etcd has ended", "err", err, "stack", string(debug.Stack()))
	f.fail(err)
	runtime.Goexit()
}
