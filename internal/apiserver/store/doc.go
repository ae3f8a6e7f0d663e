// Package store keeps the API's objects: an etcd server in this process that
// has no sockets, and the k8s.io/apiserver storage on top of it.
//
// The one idea: etcd's server is called as a library. There is no port, no
// certificate and no second process; a write is on the disk (fsync) when it is
// acknowledged, so a kill at any moment loses nothing that a client was told.
//
//	s, err := store.Open(ctx, store.Config{Dir: dir, Log: log})
//	env.Storage = s.RESTOptions(scheme, sealed)
//	...
//	select { case err := <-s.Failed(): ... }  // the disk is full or broken
//	s.Close()
//
// etcd ends the process when it cannot write its log. Here it only stops, and
// Failed says why: the caller ends in an orderly way and names the cause.
package store
