//go:build linux && cgo

package main

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"

	"viaduct.dev/viaduct/internal/agent/runtime"
	"viaduct.dev/viaduct/internal/agent/runtime/builtin/shimapi"
)

// serve answers calls until the Pod is stopped.
func (p *pod) serve(l *net.UnixListener) error {
	stopped := sync.OnceFunc(func() { l.Close() })
	for {
		conn, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go p.answer(conn, stopped)
	}
}

// answer serves one connection, which is one call.
func (p *pod) answer(conn *net.UnixConn, stopped func()) {
	defer conn.Close()
	var req shimapi.Request
	files, err := shimapi.Read(conn, &req)
	if err != nil {
		return
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()

	var resp shimapi.Response
	switch req.Op {
	case shimapi.OpInfo:
		resp.Pod, resp.PID = &p.cfg, os.Getpid()
	case shimapi.OpList:
		resp.Containers = p.list()
	case shimapi.OpStart:
		var status runtime.ContainerStatus
		if status, err = p.start(*req.Start); err == nil {
			resp.Containers = []runtime.ContainerStatus{status}
		}
	case shimapi.OpSignal:
		err = p.signal(req.ID, syscall.Signal(req.Signal))
	case shimapi.OpRemove:
		var c *container
		if c, err = p.find(req.ID); err == nil {
			err = p.remove(c)
		}
	case shimapi.OpExec:
		resp.ExitCode, err = p.exec(conn, req.ID, *req.Exec, files)
	case shimapi.OpAttach:
		err = p.attach(conn, req.ID, *req.Attach, files)
	case shimapi.OpEvents:
		p.events(conn)
		return
	case shimapi.OpEnd:
		p.end(conn)
	case shimapi.OpStop:
		err = p.stop()
	default:
		err = errors.New("unknown call " + string(req.Op))
	}

	if errors.Is(err, runtime.ErrContainerNotFound) {
		resp.NotFound = true
	} else if err != nil {
		resp.Error = err.Error()
	}
	shimapi.Write(conn, &resp)
	if req.Op == shimapi.OpStop && err == nil {
		stopped()
	}
}

// events sends statuses until the agent goes away.
func (p *pod) events(conn *net.UnixConn) {
	all, changes := p.watch()
	defer p.unwatch(changes)
	if shimapi.Write(conn, &shimapi.Response{Containers: all}) != nil {
		return
	}
	gone := make(chan struct{})
	go func() {
		var b [1]byte
		conn.Read(b[:]) // the agent never writes here: this returns at its end
		close(gone)
	}()
	for {
		select {
		case status, ok := <-changes:
			if !ok || shimapi.Write(conn, &shimapi.Response{Containers: []runtime.ContainerStatus{status}}) != nil {
				return
			}
		case <-gone:
			return
		}
	}
}
