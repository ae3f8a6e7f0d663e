package accessreview

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"viaduct.dev/viaduct/internal/apiserver/registry"
)

// Install adds the reviews to the server.
func Install(env *registry.Env, r *registry.Resources) error {
	self := &review[*authorizationv1.SelfSubjectAccessReview]{
		singular: "selfsubjectaccessreview",
		make:     func() *authorizationv1.SelfSubjectAccessReview { return &authorizationv1.SelfSubjectAccessReview{} },
		answer: func(ctx context.Context, u user.Info, q *authorizationv1.SelfSubjectAccessReview) error {
			status, err := decide(ctx, env.Authorizer, u, q.Spec.ResourceAttributes, q.Spec.NonResourceAttributes)
			q.Status = status
			return err
		},
	}
	other := &review[*authorizationv1.SubjectAccessReview]{
		singular: "subjectaccessreview",
		make:     func() *authorizationv1.SubjectAccessReview { return &authorizationv1.SubjectAccessReview{} },
		answer: func(ctx context.Context, _ user.Info, q *authorizationv1.SubjectAccessReview) error {
			u := &user.DefaultInfo{Name: q.Spec.User, UID: q.Spec.UID, Groups: q.Spec.Groups}
			status, err := decide(ctx, env.Authorizer, u, q.Spec.ResourceAttributes, q.Spec.NonResourceAttributes)
			q.Status = status
			return err
		},
	}
	who := &review[*authenticationv1.SelfSubjectReview]{
		singular: "selfsubjectreview",
		make:     func() *authenticationv1.SelfSubjectReview { return &authenticationv1.SelfSubjectReview{} },
		answer: func(_ context.Context, u user.Info, q *authenticationv1.SelfSubjectReview) error {
			q.Status.UserInfo = authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
			return nil
		},
	}
	if err := r.Add(authorizationv1.SchemeGroupVersion, "selfsubjectaccessreviews", self); err != nil {
		return err
	}
	if err := r.Add(authorizationv1.SchemeGroupVersion, "subjectaccessreviews", other); err != nil {
		return err
	}
	return r.Add(authenticationv1.SchemeGroupVersion, "selfsubjectreviews", who)
}

// review is the REST of a kind that is only ever created.
type review[T registry.Object] struct {
	singular string
	make     func() T
	answer   func(context.Context, user.Info, T) error
}

func (r *review[T]) New() runtime.Object     { return r.make() }
func (r *review[T]) Destroy()                {}
func (r *review[T]) NamespaceScoped() bool   { return false }
func (r *review[T]) GetSingularName() string { return r.singular }

// Create implements rest.Creater.
func (r *review[T]) Create(ctx context.Context, object runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	question, ok := object.(T)
	if !ok {
		return nil, apierrors.NewBadRequest("not a " + r.singular)
	}
	u, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user is known for the request")
	}
	if validate != nil {
		if err := validate(ctx, object.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if err := r.answer(ctx, u, question); err != nil {
		return nil, err
	}
	return question, nil
}

func decide(ctx context.Context, a authorizer.Authorizer, u user.Info, resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) (authorizationv1.SubjectAccessReviewStatus, error) {
	record := authorizer.AttributesRecord{User: u}
	switch {
	case resource != nil && path == nil:
		record.ResourceRequest = true
		record.Verb, record.Namespace, record.Name = resource.Verb, resource.Namespace, resource.Name
		record.APIGroup, record.APIVersion = resource.Group, resource.Version
		record.Resource, record.Subresource = resource.Resource, resource.Subresource
	case path != nil && resource == nil:
		record.Verb, record.Path = path.Verb, path.Path
	default:
		return authorizationv1.SubjectAccessReviewStatus{}, apierrors.NewBadRequest(
			"exactly one of nonResourceAttributes or resourceAttributes must be specified")
	}
	decision, reason, err := a.Authorize(ctx, record)
	status := authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow,
		Denied:  decision == authorizer.DecisionDeny,
		Reason:  reason,
	}
	if err != nil {
		status.EvaluationError = err.Error()
	}
	return status, nil
}
