// Package scheme knows the Go type of every kind that the API serves.
//
// The one idea: the types of k8s.io/api are the wire form, the form in memory
// and the form on disk. The machinery of k8s.io/apiserver wants an internal
// version of each group, the hub through which versions are converted, so every
// external type is registered a second time under <group>/__internal. A
// conversion to or from the hub is then no more than a change of TypeMeta.
//
// Kinds add their defaulting and their selectable fields when the registry
// makes their stores; nothing else changes a Scheme after New.
package scheme
