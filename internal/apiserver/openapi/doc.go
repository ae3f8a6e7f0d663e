// Package openapi holds the OpenAPI definitions of every API type that the
// server knows: the texts behind `kubectl explain`, and the structure by which
// server-side apply merges. They are generated from k8s.io/api's comments; run
// `go generate` here after a new version of k8s.io/api.
package openapi

//go:generate go tool openapi-gen --output-dir . --output-pkg viaduct.dev/viaduct/internal/apiserver/openapi --output-file zz_generated.openapi.go --report-filename /dev/null k8s.io/api/core/v1 k8s.io/api/apps/v1 k8s.io/api/discovery/v1 k8s.io/api/coordination/v1 k8s.io/api/rbac/v1 k8s.io/api/networking/v1 k8s.io/api/autoscaling/v1 k8s.io/api/policy/v1 k8s.io/api/events/v1 k8s.io/api/authentication/v1 k8s.io/api/authorization/v1 k8s.io/apimachinery/pkg/apis/meta/v1 k8s.io/apimachinery/pkg/runtime k8s.io/apimachinery/pkg/version k8s.io/apimachinery/pkg/api/resource k8s.io/apimachinery/pkg/util/intstr
