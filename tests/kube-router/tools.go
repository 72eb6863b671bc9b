//go:build tools

// Package tools makes the command a part of this module, so that go.mod and go.sum name all that it is built from.
package tools

import (
	_ "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"
)
