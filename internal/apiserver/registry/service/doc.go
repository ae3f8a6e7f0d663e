// Package service serves Services: their defaults, their validation, and the
// allocation of their cluster IPs and node ports.
//
// The one idea: a write passes three steps. The families and addresses are
// settled first (BeginCreate, BeginUpdate), because validation wants to see
// them; what was taken is given back if the write fails. A dry run settles
// without taking. What is in use is kept in memory and filled from the stored
// Services before the first write is accepted; for each cluster IP there is
// also an IPAddress object that names its Service (KEP-1880).
package service
