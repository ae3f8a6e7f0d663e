// Package serviceenv says which environment variables a container finds its
// Services by.
//
// The one idea: the environment is a pure function of the Services that are
// active when the container starts, and equals what the kubelet computes: for a
// Service redis-master at 10.96.0.11, port 6379,
//
//	REDIS_MASTER_SERVICE_HOST=10.96.0.11
//	REDIS_MASTER_SERVICE_PORT=6379
//	REDIS_MASTER_PORT=tcp://10.96.0.11:6379
//	REDIS_MASTER_PORT_6379_TCP=tcp://10.96.0.11:6379
//	REDIS_MASTER_PORT_6379_TCP_PROTO=tcp
//	REDIS_MASTER_PORT_6379_TCP_PORT=6379
//	REDIS_MASTER_PORT_6379_TCP_ADDR=10.96.0.11
//
// The names are documented at kubernetes.io/docs under "Discovering services".
package serviceenv
