// Package endpoints serves core/v1 Endpoints, the older form of EndpointSlices
// that some clients still write and read.
package endpoints
