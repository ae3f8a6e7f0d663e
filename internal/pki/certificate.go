package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Certificate is an issued certificate with its key.
type Certificate struct {
	// CertFile and KeyFile are where Ensure keeps it; empty after Issue.
	CertFile, KeyFile string
	CertPEM, KeyPEM   []byte
}

// TLS is the certificate as crypto/tls wants it.
func (c Certificate) TLS() (tls.Certificate, error) {
	return tls.X509KeyPair(c.CertPEM, c.KeyPEM)
}

// Ensure returns the certificate kept as name.crt and name.key, which states
// what r asks; it is issued first when there is no such certificate yet.
func (a *Authority) Ensure(name string, r Request) (Certificate, error) {
	c := Certificate{
		CertFile: filepath.Join(a.dir, name+".crt"),
		KeyFile:  filepath.Join(a.dir, name+".key"),
	}
	if a.stored(&c, r) {
		return c, nil
	}
	issued, err := a.Issue(r)
	if err != nil {
		return Certificate{}, fmt.Errorf("certificate %s: %w", name, err)
	}
	c.CertPEM, c.KeyPEM = issued.CertPEM, issued.KeyPEM
	if err := writeFile(c.KeyFile, c.KeyPEM, false); err != nil {
		return Certificate{}, fmt.Errorf("certificate %s: write key: %w", name, err)
	}
	if err := writeFile(c.CertFile, c.CertPEM, false); err != nil {
		return Certificate{}, fmt.Errorf("certificate %s: write: %w", name, err)
	}
	return c, nil
}

// Issue signs a new certificate and keeps it nowhere.
func (a *Authority) Issue(r Request) (Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Certificate{}, fmt.Errorf("generate key for %s: %w", r.CommonName, err)
	}
	serial, err := newSerial()
	if err != nil {
		return Certificate{}, fmt.Errorf("choose serial number for %s: %w", r.CommonName, err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: r.CommonName, Organization: r.Organizations},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(leafLifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  r.usages(),
		DNSNames:     r.DNSNames,
		IPAddresses:  r.netIPs(),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return Certificate{}, fmt.Errorf("sign %s: %w", r.CommonName, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return Certificate{}, fmt.Errorf("encode key of %s: %w", r.CommonName, err)
	}
	return Certificate{CertPEM: encodeCert(der), KeyPEM: keyPEM}, nil
}

// stored fills in the files' content when it is a certificate that this
// authority signed, that says what r asks and that has time left.
func (a *Authority) stored(c *Certificate, r Request) bool {
	var err error
	if c.CertPEM, err = os.ReadFile(c.CertFile); err != nil {
		return false
	}
	if c.KeyPEM, err = os.ReadFile(c.KeyFile); err != nil {
		return false
	}
	pair, err := c.TLS()
	if err != nil {
		return false
	}
	leaf := pair.Leaf
	return leaf.CheckSignatureFrom(a.cert) == nil &&
		time.Until(leaf.NotAfter) > renewBefore &&
		leaf.Subject.CommonName == r.CommonName &&
		sameSet(leaf.Subject.Organization, r.Organizations) &&
		sameSet(leaf.DNSNames, r.DNSNames) &&
		sameSet(ipStrings(leaf.IPAddresses), ipStrings(r.netIPs())) &&
		slices.Equal(leaf.ExtKeyUsage, r.usages())
}

func sameSet(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}
