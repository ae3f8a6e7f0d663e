package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

const (
	authorityLifetime = 10 * 365 * 24 * time.Hour
	leafLifetime      = 730 * 24 * time.Hour
	// A certificate with less than this left is issued anew by Ensure.
	renewBefore = leafLifetime / 3
	// Certificates begin in the past, for clients whose clock runs behind.
	clockSkew = time.Hour
)

// Authority is a cluster's certificate authority. It is safe for concurrent
// use as long as no two calls name the same certificate.
type Authority struct {
	dir     string
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	certPEM []byte
}

// Open loads the authority in dir, and makes dir and the authority when they
// are not there yet. An authority that is there and cannot be read is an
// error: replacing it would shut out every client that trusts it.
func Open(dir string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make certificate directory: %w", err)
	}
	a := &Authority{dir: dir}
	_, err := os.Stat(a.CertFile())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// The certificate is written last: without it nothing was ever issued.
		if err := a.create(); err != nil {
			return nil, fmt.Errorf("create certificate authority in %s: %w", dir, err)
		}
	case err != nil:
		return nil, fmt.Errorf("look for certificate authority: %w", err)
	}
	if err := a.load(); err != nil {
		return nil, fmt.Errorf("load certificate authority from %s: %w", dir, err)
	}
	return a, nil
}

// CertFile is the path of the authority's certificate.
func (a *Authority) CertFile() string { return filepath.Join(a.dir, "ca.crt") }

// CertPEM is the authority's certificate in PEM.
func (a *Authority) CertPEM() []byte { return append([]byte(nil), a.certPEM...) }

// Pool holds the authority's certificate alone, for tls.Config's RootCAs and
// ClientCAs.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a *Authority) keyFile() string { return filepath.Join(a.dir, "ca.key") }

func (a *Authority) create() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := newSerial()
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "viaduct-ca"},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(authorityLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	if err := writeFile(a.keyFile(), keyPEM, true); err != nil {
		return err
	}
	return writeFile(a.CertFile(), encodeCert(der), true)
}

func (a *Authority) load() error {
	certPEM, err := os.ReadFile(a.CertFile())
	if err != nil {
		return err
	}
	keyPEM, err := os.ReadFile(a.keyFile())
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return fmt.Errorf("key is a %T, want ECDSA", pair.PrivateKey)
	}
	if !pair.Leaf.IsCA {
		return errors.New("certificate is not an authority's")
	}
	a.cert, a.key, a.certPEM = pair.Leaf, key, certPEM
	return nil
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// writeFile replaces path by rename, so that a reader sees the old file or the
// new one. With sync it also survives a loss of power.
func writeFile(path string, data []byte, sync bool) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
