// Package pki keeps a cluster's certificates: one authority in one directory,
// and whatever certificates were ever asked of it.
//
// The one idea: callers say what a certificate must state (a Request) and
// Ensure makes the files say it. A certificate on disk that still states it is
// returned as it is; one that is missing, damaged, near its end, from another
// authority or about something else is issued anew. So every start of every
// role may ask again, and a changed address simply yields a new certificate.
//
//	ca, err := pki.Open(filepath.Join(state, "pki"))
//	serving, err := ca.Ensure("apiserver", pki.APIServer(nodeAddrs, serviceCIDRs, "cluster.local"))
//	admin, err := ca.Ensure("admin", pki.Client("viaduct-admin", "system:masters"))
//	kubeconfig, err := pki.Kubeconfig("viaduct", "https://127.0.0.1:6443", ca.CertPEM(), admin)
//
// All keys are ECDSA P-256: an RSA key costs a cold start 0.2 s. Files have
// mode 0600, the directory 0700. One process at a time may use a directory.
package pki
