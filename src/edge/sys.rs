//! The only `unsafe` in the house: the few kernel calls that no crate wraps.
//! Policy is left to everybody else.
