//! Bounded tables and token buckets.
//! What is limited is the caller's.
