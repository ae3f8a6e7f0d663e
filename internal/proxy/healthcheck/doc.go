// Package healthcheck answers those who ask over HTTP whether this node is a
// good one to send traffic to: load balancers at the healthCheckNodePort of each
// Service, and /healthz and /livez about the proxy itself.
//
// The one idea: an answer is computed when it is asked for, from numbers that
// the proxy keeps up to date as it programs. Paths, bodies, headers and statuses
// are those of kube-proxy 1.37, so that what balances over a mixed set of nodes
// sees no difference.
//
//	server := healthcheck.NewServer(healthcheck.ServerConfig{Address: "0.0.0.0:10256", Log: log})
//	ports := healthcheck.NewPorts(server.Healthy, log)
//	go server.Run(ctx)
//	server.Queued()      // an object changed
//	server.Programming() // what follows from it is on its way to the kernel ...
//	ports.Set(change)    // ... and to those who ask at a Service's port
//	server.Updated()     // the kernel holds it
//
// Ages are read from the monotonic clock: the wall clock may be stepped.
package healthcheck
