// Package zone turns the API's objects into the records of a cluster's DNS
// zone, by the Kubernetes DNS specification 1.1.0.
//
// The one idea: it is a pure function, kept up to date object by object. Objects
// go in (SetService, SetSlice, ...); Answer gives what a question is answered
// with: the records, or that the name exists without records of that type
// (NODATA), or that it does not exist (NXDOMAIN). Names that only have other
// names below them exist (RFC 8020).
//
//	z := zone.New("cluster.local")
//	z.SetService(service)
//	a := z.Answer("web.default.svc.cluster.local.", zone.A)
//
// A Zone may be read by many at once, but not while it is changed.
package zone
