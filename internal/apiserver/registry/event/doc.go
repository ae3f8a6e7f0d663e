// Package event serves Events, which vanish an hour after their last write. The
// kinds of core/v1 and of events.k8s.io/v1 are two views of the same objects.
package event
