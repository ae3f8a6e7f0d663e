// Package deployment rolls a Deployment's template out over its Pods, by one
// ReplicaSet for each version of the template.
//
// The one idea: each look does what may be done now (a step up of the new set,
// a step down of the old ones, within maxSurge and maxUnavailable) and ends; the
// Pods that become ready cause the next look. How large a step may be is worked
// out by pure functions (steps.go).
package deployment
