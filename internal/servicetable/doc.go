// Package servicetable computes what Services mean to the network of one node:
// two maps, whatever programs the packets.
//
//	frontend (address, protocol, port)  ->  pool
//	(pool, slot 0..n-1)                 ->  backend (address, port)
//
// The one idea: both maps are a pure function of Services and EndpointSlices,
// kept up incrementally. Every change of an object touches what it means and
// nothing else, and Flush tells the difference in elements. Removing a backend
// moves the last slot into its place, so that a change touches one or two slots
// and never a pool.
//
//	t := servicetable.New(servicetable.Config{NodeName: "node-1"})
//	t.SetService(svc)
//	t.SetSlice(slice)
//	diff := t.Flush() // frontends and slots, each with its old and new value
//
// A Table belongs to one goroutine. It has no clock, does no I/O and knows no
// data plane; after a restart Adopt makes it number pools and slots as the
// kernel already does.
package servicetable
