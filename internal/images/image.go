package images

import "errors"

// Image is an image that the store holds completely.
type Image struct {
	// Name is the full reference, such as docker.io/library/nginx:1.22.
	Name string
	// ID is the digest of the image's configuration, sha256:HEX.
	ID string
	// Digest is the digest of its manifest, sha256:HEX.
	Digest string
	// SizeBytes is the sum of its compressed layers, in bytes.
	SizeBytes int64
	// Layers are the directories of its unpacked layers, lowest first.
	Layers []string

	Entrypoint, Cmd, Env []string
	WorkingDir           string
	User                 string
	StopSignal           string // such as SIGQUIT; empty means SIGTERM
}

// ErrNotFound says that the store has no image of that name.
var ErrNotFound = errors.New("image not found")
