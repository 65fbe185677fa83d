//! A door's start and stop commands, run so that they cannot stall anything.
//! When they are due is left to the gatekeeper.
