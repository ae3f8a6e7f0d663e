package images

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// platform is what images are chosen for.
var platform = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}

// Pull fetches an image from its registry, with the credentials of the caller's
// docker configuration if there are any. Registries on the loopback are spoken
// to without TLS.
func (s *Store) Pull(ctx context.Context, ref string) (Image, error) {
	r, err := parse(ref)
	if err != nil {
		return Image{}, err
	}
	img, err := remote.Image(r,
		remote.WithContext(ctx),
		remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithPlatform(platform))
	if err != nil {
		return Image{}, fmt.Errorf("pull %s: %w", full(r), reason(err))
	}
	added, err := s.add(ctx, img, namesOf(r))
	if err != nil {
		return Image{}, fmt.Errorf("pull %s: %w", full(r), reason(err))
	}
	return added, nil
}

func namesOf(r name.Reference) []string { return []string{full(r)} }

// reason turns a registry's answer into the words that people look for.
func reason(err error) error {
	var answer *transport.Error
	if !errors.As(err, &answer) {
		return err
	}
	switch answer.StatusCode {
	case http.StatusNotFound:
		return fmt.Errorf("not found: %w", err)
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("pull access denied, repository does not exist or may require authorization: %w", err)
	}
	return err
}
