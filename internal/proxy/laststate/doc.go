// Package laststate keeps the two maps of the service table in a file, so that a
// node which boots while no API server answers serves its Services at once.
//
// The one idea: what is kept is what a data plane was told, a servicetable.Diff
// from nothing, in the order and with the slots that it has. So Load gives what a
// sink can apply, and the table that is computed later differs from it only in
// what has changed since.
//
//	state, err := laststate.Open("/var/lib/viaduct/proxy/table.db", log)
//	diff, err := state.Load()     // at boot, for the sink
//	go state.Run(ctx)
//	state.Replace(table.Snapshot()) // once the API has told everything
//	state.Add(table.Flush())        // for every change from then on
//
// The file is a bbolt database, whose transactions survive a kill at any moment.
// Each record has a check sum and all of them together another, so that a file
// which is damaged, of another format or not ours is told from a good one; it is
// set aside and a new one begun. Writing is behind the kernel by about a second,
// in the background, and only of records that differ.
//
//	meta       format, revision, sum
//	frontends  address port protocol          -> views, flags, Service
//	slots      pool, number of 64 slots       -> their backends
//	local      address of a backend here      ->
//	sources    frontend range                 ->
//	health     namespace/name                 -> port, ready endpoints here
package laststate
