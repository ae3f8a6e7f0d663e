// Package serviceaccount serves ServiceAccounts. They are names only: no tokens
// are issued for them.
package serviceaccount
