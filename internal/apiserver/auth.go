package apiserver

import (
	"context"
	"net/http"

	apiserverapi "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

// openPaths are answered to anybody.
func openPaths() []apiserverapi.AnonymousAuthCondition {
	return []apiserverapi.AnonymousAuthCondition{{Path: "/healthz"}, {Path: "/livez"}, {Path: "/readyz"}, {Path: "/version"}}
}

// newAuthenticator knows three sorts of clients: this process itself, holders
// of a certificate of the cluster's authority, and, for the open paths alone,
// anybody.
func newAuthenticator(clientCA dynamiccertificates.CAContentProvider) authenticator.Request {
	return union.New(
		authenticator.RequestFunc(authenticateInProcess),
		group.NewAuthenticatedGroupAdder(x509.NewDynamic(clientCA.VerifyOptions, x509.CommonNameUserConversion)),
		anonymous.NewAuthenticator(openPaths()),
	)
}

// inProcess is the context key under which the in-process transport names its
// user. No request from a socket can carry it.
type inProcess struct{}

func authenticateInProcess(r *http.Request) (*authenticator.Response, bool, error) {
	u, ok := r.Context().Value(inProcess{}).(user.Info)
	if !ok {
		return nil, false, nil
	}
	return &authenticator.Response{User: u}, true, nil
}

// authorize lets every known client do everything: a cluster has one
// administrator for now. Anonymous requests get here for the open paths alone,
// and may only read them.
func authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetUser() == nil {
		return authorizer.DecisionDeny, "no user", nil
	}
	for _, g := range a.GetUser().GetGroups() {
		if g == user.AllAuthenticated || g == user.SystemPrivilegedGroup {
			return authorizer.DecisionAllow, "", nil
		}
	}
	if !a.IsResourceRequest() && a.IsReadOnly() {
		for _, open := range openPaths() {
			if a.GetPath() == open.Path {
				return authorizer.DecisionAllow, "", nil
			}
		}
	}
	return authorizer.DecisionDeny, "a client certificate of the cluster is needed", nil
}
