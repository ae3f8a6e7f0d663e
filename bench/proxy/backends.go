package main

import (
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// serveBackends is the program that every endpoint is: at backendPort it sends
// the four bytes of the address at which it was reached; at discardPort it only
// accepts, with as little work as can be.
func serveBackends() error {
	l, err := net.Listen("tcp4", fmt.Sprintf(":%d", backendPort))
	if err != nil {
		return err
	}
	discard, err := listenRaw(discardPort)
	if err != nil {
		return err
	}
	go func() {
		for {
			fd, _, err := unix.Accept4(discard, unix.SOCK_CLOEXEC)
			if err == nil {
				unix.Close(fd)
			}
		}
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if _, err := c.Write(c.LocalAddr().(*net.TCPAddr).IP.To4()); err == nil {
				_, _ = io.Copy(io.Discard, c) // the client ends it
			}
		}()
	}
}

func listenRaw(port uint16) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)}); err != nil {
		return -1, err
	}
	return fd, unix.Listen(fd, 4096)
}
