//! Marks and leases, durable: an append-only journal with checksums, one writer, group commit.
//! What the records mean is left to `core`.
