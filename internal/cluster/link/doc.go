// Package link is what the supervisor and a node's process say to each other,
// over a socket pair that is as long-lived as both.
//
// The one idea: the link is also the life line. Its end, however it comes,
// tells a node that its supervisor is gone, and the supervisor that the node
// is. Messages are small and may carry descriptors, which is how sockets of the
// host's network namespace get into a box.
//
//	ours, theirs, err := link.Pair()
//	cmd.ExtraFiles = []*os.File{theirs}
//	err = ours.Send(link.Message{Go: true}, listener)
//	m, files, err := ours.Receive()
package link
