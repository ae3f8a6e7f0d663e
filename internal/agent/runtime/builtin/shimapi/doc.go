// Package shimapi is how the agent talks to the shim that holds a Pod.
//
// The one idea: one connection per call, over a unix socket in the Pod's own
// directory. A message is four bytes of length (big endian) and that many of
// JSON; descriptors travel beside the first one (SCM_RIGHTS). The call's answer
// is one Response, except for OpEvents, which goes on until either side ends
// the connection, and OpExec and OpAttach, during which the caller may send Resize
// messages.
//
// It stays free of net/http and of generated code because the shim, of which
// there is one for each Pod, should be small.
package shimapi
