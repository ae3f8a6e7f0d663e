// Package namespace serves Namespaces and guards what is written into them.
//
// The life of a namespace:
//
//	create  -> Active, spec.finalizers [kubernetes]
//	delete  -> Terminating: nothing new is admitted into it; the namespace
//	           controller deletes what is there and then, through the
//	           namespaces/finalize subresource, empties spec.finalizers
//	gone       when spec.finalizers and metadata.finalizers are both empty
//
// Lifecycle is the admission plugin that refuses writes into a namespace that
// is missing or Terminating.
package namespace
