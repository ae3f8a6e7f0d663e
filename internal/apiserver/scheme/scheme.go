package scheme

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// apiPackages begins the package path of the types that have a hub version;
// the options and watch events that every group carries have none.
const apiPackages = "k8s.io/api/"

// Scheme is what the server knows about types.
type Scheme struct {
	// Hub has every external type and, the same again, its internal version.
	Hub *runtime.Scheme
	// OpenAPI has the external types alone: with the hub's second name for
	// each type, every model of the OpenAPI document would claim two kinds.
	OpenAPI *runtime.Scheme
	// Codecs and Parameters work on Hub.
	Codecs     serializer.CodecFactory
	Parameters runtime.ParameterCodec
}

// groups are the group versions that a kind may be served from.
func groups() []struct {
	version schema.GroupVersion
	add     func(*runtime.Scheme) error
} {
	return []struct {
		version schema.GroupVersion
		add     func(*runtime.Scheme) error
	}{
		{corev1.SchemeGroupVersion, corev1.AddToScheme},
		{appsv1.SchemeGroupVersion, appsv1.AddToScheme},
		{discoveryv1.SchemeGroupVersion, discoveryv1.AddToScheme},
		{coordinationv1.SchemeGroupVersion, coordinationv1.AddToScheme},
		{networkingv1.SchemeGroupVersion, networkingv1.AddToScheme},
		{eventsv1.SchemeGroupVersion, eventsv1.AddToScheme},
		{authenticationv1.SchemeGroupVersion, authenticationv1.AddToScheme},
		{authorizationv1.SchemeGroupVersion, authorizationv1.AddToScheme},
		{autoscalingv1.SchemeGroupVersion, autoscalingv1.AddToScheme},
		{policyv1.SchemeGroupVersion, policyv1.AddToScheme},
	}
}

// New makes the schemes and their codecs.
func New() (*Scheme, error) {
	hub, external := runtime.NewScheme(), runtime.NewScheme()
	for _, s := range []*runtime.Scheme{hub, external} {
		for _, group := range groups() {
			if err := group.add(s); err != nil {
				return nil, fmt.Errorf("register %s: %w", group.version, err)
			}
		}
		unversioned := schema.GroupVersion{Version: "v1"}
		metav1.AddToGroupVersion(s, unversioned)
		s.AddUnversionedTypes(unversioned,
			&metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	}
	if err := addParameters(hub); err != nil {
		return nil, fmt.Errorf("register query parameters: %w", err)
	}
	for _, group := range groups() {
		addHub(hub, group.version)
	}
	return &Scheme{
		Hub:        hub,
		OpenAPI:    external,
		Codecs:     serializer.NewCodecFactory(hub, serializer.WithStreamingCollectionEncodingToJSON(), serializer.WithStreamingCollectionEncodingToProtobuf()),
		Parameters: runtime.NewParameterCodec(hub),
	}, nil
}

// Internal is the hub version of a group.
func Internal(group string) schema.GroupVersion {
	return schema.GroupVersion{Group: group, Version: runtime.APIVersionInternal}
}

func addHub(s *runtime.Scheme, version schema.GroupVersion) {
	internal := Internal(version.Group)
	for kind, goType := range s.KnownTypes(version) {
		if !strings.HasPrefix(goType.PkgPath(), apiPackages) {
			continue
		}
		object, err := s.New(version.WithKind(kind))
		if err != nil {
			continue // KnownTypes has just named it
		}
		s.AddKnownTypeWithName(internal.WithKind(kind), object)
	}
}
