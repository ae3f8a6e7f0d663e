// Package event serves core/v1 Events, which vanish an hour after their last
// write.
package event
