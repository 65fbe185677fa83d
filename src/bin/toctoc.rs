//! The client. All it does stands in `toctoc::app`.
fn main() {}
