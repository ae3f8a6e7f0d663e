package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// The client's calls are plain system calls of the thread that makes them: no
// poller and no other goroutine is part of what is measured. They are made
// inside lab.Namespace.Do.

var errSilence = errors.New("no answer in time")

// abortive closes a socket by RST.
var abortive = &unix.Linger{Onoff: 1, Linger: 0}

// ask connects and returns which backend answered.
func ask(to netip.AddrPort, patience time.Duration) (netip.Addr, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return netip.Addr{}, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, abortive); err != nil {
		return netip.Addr{}, err
	}
	deadline := time.Now().Add(patience)
	if err := unix.Connect(fd, sockaddr(to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return netip.Addr{}, err
	}
	if err := await(fd, unix.POLLOUT, deadline); err != nil {
		return netip.Addr{}, err
	}
	if errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || errno != 0 {
		return netip.Addr{}, errors.Join(err, unix.Errno(errno))
	}
	if err := await(fd, unix.POLLIN, deadline); err != nil {
		return netip.Addr{}, err
	}
	var who [4]byte
	if n, err := unix.Read(fd, who[:]); err != nil || n != len(who) {
		return netip.Addr{}, fmt.Errorf("read who it is: %d bytes: %w", n, err)
	}
	return netip.AddrFrom4(who), nil
}

func await(fd int, what int16, deadline time.Time) error {
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return errSilence
		}
		timeout := unix.NsecToTimespec(int64(left))
		n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(fd), Events: what}}, &timeout, nil)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// knock connects and closes by RST at once. It returns how long the connect
// took, and both together.
func knock(to unix.Sockaddr) (connect, both time.Duration, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	timeout := unix.NsecToTimeval(int64(time.Second))
	err = errors.Join(
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, abortive),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout))
	if err != nil {
		return 0, 0, errors.Join(err, unix.Close(fd))
	}
	begin := time.Now()
	err = unix.Connect(fd, to)
	connect = time.Since(begin)
	if closeErr := unix.Close(fd); err == nil {
		err = closeErr
	}
	return connect, time.Since(begin), err
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}
