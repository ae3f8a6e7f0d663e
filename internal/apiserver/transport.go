package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
)

// inProcessHost is the host of URLs that never leave the process.
const inProcessHost = "http://in-process"

// transport is an http.RoundTripper that calls the server's handler. Bodies
// pass through a pipe, so that a watch streams as it does over a socket.
type transport struct {
	handler http.Handler // set before the first request
	user    user.Info
}

func (t *transport) clientConfig() *rest.Config {
	return &rest.Config{
		Host:      inProcessHost,
		Transport: t,
		UserAgent: "viaduct",
		// What the server warns of is for a user to read, not for its own parts.
		WarningHandler: rest.NoWarnings{},
		QPS:            -1, // whoever is in the process is not held back
		ContentConfig: rest.ContentConfig{
			ContentType:        runtime.ContentTypeProtobuf,
			AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON,
		},
	}
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	if t.handler == nil {
		return nil, errors.New("api server: not assembled yet")
	}
	ctx, cancel := context.WithCancel(context.WithValue(request.Context(), inProcess{}, t.user))
	served := request.Clone(ctx)
	served.RequestURI = request.URL.RequestURI()
	served.RemoteAddr = "127.0.0.1:0"
	served.Proto, served.ProtoMajor, served.ProtoMinor = "HTTP/2.0", 2, 0
	if served.Body == nil {
		served.Body = http.NoBody
	}
	reader, writer := io.Pipe()
	w := &responseWriter{header: http.Header{}, body: writer, gone: ctx.Done(), started: make(chan struct{})}
	go func() {
		defer cancel()
		defer served.Body.Close()
		writer.CloseWithError(w.serve(t.handler, served))
	}()
	select {
	case <-w.started:
	case <-ctx.Done():
	}
	// A caller that has gone gets no answer, also not the empty one of a handler
	// that gave up for that reason.
	if err := request.Context().Err(); err != nil {
		cancel()
		_ = reader.CloseWithError(err)
		return nil, err
	}
	<-w.started // ctx ends before that only with the caller's
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)),
		StatusCode:    w.status,
		Proto:         "HTTP/2.0",
		ProtoMajor:    2,
		Header:        w.sent,
		Body:          &responseBody{PipeReader: reader, cancel: cancel},
		ContentLength: -1,
		Request:       request,
	}, nil
}

// responseWriter is what the handler writes to. Like net/http's it may be used
// by one goroutine at a time, Flush and CloseNotify excepted.
type responseWriter struct {
	header  http.Header
	body    *io.PipeWriter
	gone    <-chan struct{}
	once    sync.Once
	started chan struct{} // closed when status and sent are set
	status  int
	sent    http.Header
}

// serve calls the handler; what it returns is what the reader of the body gets
// at the end, nil being an orderly end.
func (w *responseWriter) serve(handler http.Handler, request *http.Request) (err error) {
	defer func() {
		if r := recover(); r != nil {
			// The server's own filters have logged it.
			err = fmt.Errorf("api server: request aborted: %v", r)
			w.WriteHeader(http.StatusInternalServerError)
		}
	}()
	handler.ServeHTTP(w, request)
	w.WriteHeader(http.StatusOK)
	return nil
}

func (w *responseWriter) Header() http.Header { return w.header }

func (w *responseWriter) WriteHeader(status int) {
	if status >= 100 && status < 200 {
		return
	}
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.started)
	})
}

func (w *responseWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// Flush implements http.Flusher: a pipe holds nothing back but the header.
func (w *responseWriter) Flush() { w.WriteHeader(http.StatusOK) }

// CloseNotify implements http.CloseNotifier, by which the server's filters tell
// a writer that can stream.
func (w *responseWriter) CloseNotify() <-chan bool {
	closed := make(chan bool, 1)
	go func() {
		<-w.gone
		closed <- true
	}()
	return closed
}

// responseBody ends the request when its reader has no more use for it.
type responseBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b *responseBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}
