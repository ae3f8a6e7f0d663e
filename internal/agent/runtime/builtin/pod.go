package builtin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"viaduct.dev/viaduct/internal/agent/runtime"
	"viaduct.dev/viaduct/internal/agent/runtime/builtin/shimapi"
)

// pod is a Pod that a shim holds.
type pod struct {
	dir    string
	cfg    runtime.PodConfig
	pid    int // the shim's
	events chan runtime.ContainerStatus
}

func (p *pod) Config() runtime.PodConfig { return p.cfg }

func (p *pod) NetNS() string { return fmt.Sprintf("/proc/%d/ns/net", p.pid) }

func (p *pod) Events() <-chan runtime.ContainerStatus { return p.events }

// follow delivers events until the shim is gone. A shim that cuts a slow reader
// off is asked again, and then tells all statuses anew.
func (p *pod) follow() error {
	conn, err := shimapi.Dial(p.dir)
	if err != nil {
		return gone(err)
	}
	if err := shimapi.Write(conn, shimapi.Request{Op: shimapi.OpEvents}); err != nil {
		conn.Close()
		return gone(err)
	}
	go func() {
		defer close(p.events)
		for {
			var resp shimapi.Response
			if _, err := shimapi.Read(conn, &resp); err != nil {
				conn.Close()
				if conn, err = shimapi.Dial(p.dir); err != nil {
					return
				}
				if shimapi.Write(conn, shimapi.Request{Op: shimapi.OpEvents}) != nil {
					conn.Close()
					return
				}
				continue
			}
			for _, status := range resp.Containers {
				p.events <- status
			}
		}
	}()
	return nil
}

func (p *pod) StartContainer(ctx context.Context, cfg runtime.ContainerConfig) (runtime.ContainerStatus, error) {
	var resp shimapi.Response
	if err := call(ctx, p.dir, shimapi.Request{Op: shimapi.OpStart, Start: &cfg}, &resp); err != nil {
		return runtime.ContainerStatus{}, err
	}
	return resp.Containers[0], nil
}

func (p *pod) Containers(ctx context.Context) ([]runtime.ContainerStatus, error) {
	var resp shimapi.Response
	if err := call(ctx, p.dir, shimapi.Request{Op: shimapi.OpList}, &resp); err != nil {
		return nil, err
	}
	return resp.Containers, nil
}

func (p *pod) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	return call(ctx, p.dir, shimapi.Request{Op: shimapi.OpSignal, ID: id, Signal: int(sig)}, &shimapi.Response{})
}

func (p *pod) RemoveContainer(ctx context.Context, id string) error {
	return call(ctx, p.dir, shimapi.Request{Op: shimapi.OpRemove, ID: id}, &shimapi.Response{})
}

func (p *pod) Exec(ctx context.Context, id string, cfg runtime.ExecConfig) (int, error) {
	return p.stream(ctx, cfg.Streams, func(sent shimapi.Streams) shimapi.Request {
		return shimapi.Request{Op: shimapi.OpExec, ID: id, Exec: &shimapi.Exec{
			Args: cfg.Args, Env: cfg.Env, TTY: cfg.TTY, Streams: sent,
		}}
	})
}

func (p *pod) Attach(ctx context.Context, id string, streams runtime.Streams) error {
	_, err := p.stream(ctx, streams, func(sent shimapi.Streams) shimapi.Request {
		return shimapi.Request{Op: shimapi.OpAttach, ID: id, Attach: &sent}
	})
	return err
}

// stream makes a call that lasts as long as a program's streams. The end of ctx
// ends the connection, and with it the call.
func (p *pod) stream(ctx context.Context, streams runtime.Streams, request func(shimapi.Streams) shimapi.Request) (int, error) {
	conn, err := shimapi.Dial(p.dir)
	if err != nil {
		return 0, gone(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var files []*os.File
	for _, f := range []*os.File{streams.Stdin, streams.Stdout, streams.Stderr} {
		if f != nil {
			files = append(files, f)
		}
	}
	req := request(shimapi.Streams{Stdin: streams.Stdin != nil, Stdout: streams.Stdout != nil, Stderr: streams.Stderr != nil})
	if err := shimapi.Write(conn, req, files...); err != nil {
		return 0, callError(ctx, err)
	}
	done := make(chan struct{})
	defer close(done)
	if streams.Resize != nil {
		go func() {
			for {
				select {
				case size, ok := <-streams.Resize:
					if !ok || shimapi.Write(conn, shimapi.Resize(size)) != nil {
						return
					}
				case <-done:
					return
				}
			}
		}()
	}
	var resp shimapi.Response
	if _, err := shimapi.Read(conn, &resp); err != nil {
		return 0, callError(ctx, err)
	}
	return resp.ExitCode, resp.Err()
}

func (p *pod) Stop(ctx context.Context) error {
	err := call(ctx, p.dir, shimapi.Request{Op: shimapi.OpStop}, &shimapi.Response{})
	if err != nil && !errors.Is(err, runtime.ErrPodGone) {
		return fmt.Errorf("stop pod %s/%s: %w", p.cfg.Namespace, p.cfg.Name, err)
	}
	return cleanUp(ctx, p.dir)
}
