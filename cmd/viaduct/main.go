// Command viaduct is the whole Service layer of Kubernetes in one binary.
package main

func main() {}
