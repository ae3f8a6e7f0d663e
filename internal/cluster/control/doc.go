// Package control is how a box's supervisor is asked: HTTP and JSON over a unix
// socket in the cluster's directory, which works across network namespaces.
//
// The one idea: whoever may open the socket is root on this machine already, so
// there is nothing to authenticate.
//
//	c := control.NewClient(dir.Socket())
//	err := c.Follow(ctx, func(e control.Event) { ... })   // until it is ready
//	status, err := c.Status(ctx)
package control
