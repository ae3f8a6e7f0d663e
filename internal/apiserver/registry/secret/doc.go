// Package secret serves Secrets.
package secret
