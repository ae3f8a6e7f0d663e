package apiserver

import (
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/version"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	utilcompatibility "k8s.io/apiserver/pkg/util/compatibility"
	basecompatibility "k8s.io/component-base/compatibility"
	baseversion "k8s.io/component-base/version"
)

// unstamped is the version that a binary built without -ldflags states: that of
// the Kubernetes libraries in go.mod.
const unstamped = "v1.37.2+viaduct"

// effectiveVersion is the version that /version states. The libraries' own
// default, v0.0.0-master, is one that clients cannot parse.
func effectiveVersion() basecompatibility.EffectiveVersion {
	return stamped{utilcompatibility.DefaultBuildEffectiveVersion()}
}

type stamped struct {
	basecompatibility.EffectiveVersion
}

// Info implements basecompatibility.EffectiveVersion.
func (s stamped) Info() *version.Info {
	info := s.EffectiveVersion.Info()
	if build := baseversion.Get(); build.Major == "" || build.Major == "0" {
		info.Major, info.Minor, info.GitVersion = "1", "37", unstamped
	}
	return info
}

// longRunning tells requests that have no deadline: watches and streams.
func longRunning() apirequest.LongRunningRequestCheck {
	return genericfilters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"),
		sets.NewString("attach", "exec", "proxy", "log", "portforward"),
	)
}
