// Package node serves Nodes.
package node
