package nftables

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// monitor hears of what others do to our tables where these have no owner
// (before Linux 6.9).
type monitor struct {
	file    *os.File
	lost    chan struct{}
	touched atomic.Bool // since the last Reload
	done    chan struct{}
}

// groupNFTables is NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h.
const groupNFTables = 7

// Lost tells that somebody else has changed or deleted our tables: Reload then,
// and Apply a Snapshot. It never does while the kernel knows owners of tables.
func (s *Sink) Lost() <-chan struct{} {
	if s.monitor == nil {
		return nil
	}
	return s.monitor.lost
}

// watch begins to listen once the tables are made, if they have no owner.
func (s *Sink) watch() error {
	if s.flags != 0 || s.monitor != nil {
		return nil
	}
	own, err := s.conn.port()
	if err != nil {
		return fmt.Errorf("watch table %s: %w", TableName, err)
	}
	if err := unix.SetsockoptInt(s.conn.ear, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, groupNFTables); err != nil {
		return fmt.Errorf("watch table %s: %w", TableName, err)
	}
	m := &monitor{file: os.NewFile(uintptr(s.conn.ear), "nftables"), lost: make(chan struct{}, 1), done: make(chan struct{})}
	s.monitor, s.conn.ear = m, -1
	go func() {
		defer close(m.done)
		m.listen(own)
	}()
	return nil
}

// mostNews is how many elements' news the socket surely holds.
const mostNews = 1000

// deaf runs a large transaction without hearing of it: so much news would be cut
// off, as if others' were among it. Theirs is told by the count of transactions.
func (m *monitor) deaf(c *conn, transaction func() error) error {
	raw, err := m.file.SyscallConn()
	if err != nil {
		return transaction()
	}
	member := func(option int) (err error) {
		ctl := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, option, groupNFTables)
		})
		return errors.Join(ctl, err)
	}
	before, err := c.generation()
	if err == nil {
		err = member(unix.NETLINK_DROP_MEMBERSHIP)
	}
	refused := transaction()
	err = errors.Join(err, member(unix.NETLINK_ADD_MEMBERSHIP))
	after, genErr := c.generation()
	own := uint32(1)
	if refused != nil {
		own = 0
	}
	if err != nil || genErr != nil || after-before != own {
		m.tell()
	}
	return refused
}

func (m *monitor) close() {
	m.file.Close()
	<-m.done
}

func (m *monitor) listen(own uint32) {
	buf := make([]byte, 1<<16)
	for {
		n, err := m.file.Read(buf)
		switch {
		case errors.Is(err, unix.ENOBUFS): // what was missed may have been it
			m.tell()
			continue
		case err != nil:
			return
		}
		if othersWork(buf[:n], own) {
			m.tell()
		}
	}
}

func (m *monitor) tell() {
	m.touched.Store(true)
	select {
	case m.lost <- struct{}{}:
	default:
	}
}

// othersWork says whether messages tell of a change of our table that the socket
// with port own has not asked for. What packets do (learnt affinity) is no news.
func othersWork(b []byte, own uint32) bool {
	found := false
	err := eachHeader(b, func(h header, body []byte) {
		switch h.kind & 0xff {
		case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE,
			unix.NFT_MSG_NEWSET, unix.NFT_MSG_DELSET, unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
		default:
			return
		}
		if h.kind>>8 != unix.NFNL_SUBSYS_NFTABLES || h.port == own || len(body) < 4 {
			return
		}
		// In each of them the first attribute is the table's name.
		eachAttr(body[4:], func(kind uint16, v []byte) { found = found || kind == unix.NFTA_TABLE_NAME && text(v) == TableName })
	})
	return found || err != nil
}
