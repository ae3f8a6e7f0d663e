package apiserver

import (
	"fmt"
	"runtime/debug"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/version"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	utilcompatibility "k8s.io/apiserver/pkg/util/compatibility"
	basecompatibility "k8s.io/component-base/compatibility"
	baseversion "k8s.io/component-base/version"
)

// effectiveVersion is the version that /version states: what the linker was
// told (see the Makefile), else that of the Kubernetes libraries. Their own
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
		info.GitVersion = fmt.Sprintf("v%s.%s.%s+viaduct", info.Major, info.Minor, libraryPatch())
	}
	return info
}

// libraryPatch is the patch release of the Kubernetes libraries: the 2 of
// k8s.io/apiserver v0.37.2.
func libraryPatch() string {
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, module := range build.Deps {
			if parts := strings.Split(module.Version, "."); module.Path == "k8s.io/apiserver" && len(parts) == 3 {
				return parts[2]
			}
		}
	}
	return "0"
}

// longRunning tells requests that have no deadline: watches and streams.
func longRunning() apirequest.LongRunningRequestCheck {
	return genericfilters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"),
		sets.NewString("attach", "exec", "proxy", "log", "portforward"),
	)
}
