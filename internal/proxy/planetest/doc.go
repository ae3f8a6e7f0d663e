// Package planetest holds data planes to what the two maps of servicetable mean:
// the fake one (fakeplane) and the real one, with packets.
//
// The one idea: one world of network namespaces, made once, in which a few hundred
// packets from every kind of place are sent at once and heard of together. So a
// check costs milliseconds, and thousands of random clusters can be programmed and
// asked in minutes.
//
//	w := planetest.NewWorld(t)
//	err := w.Do(func() error { sink, prior, err = nftables.Open(...) })
//	heard, err := w.Ask(packets, silence, patience)
package planetest
