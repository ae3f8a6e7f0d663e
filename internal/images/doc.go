// Package images keeps container images for all nodes of a cluster's machine.
//
// The one idea: a store is one directory. Blobs and unpacked layers are named
// by their digest and never change once they are there; the only file that
// changes is the index of names, replaced by rename. So one process writes
// (the supervisor) and any number read, without a lock between them.
package images
