//! `Authentic` -> `Fresh`: the window, seen, floor and burned timestamps, challenges, the suspect clock.
//! Making marks durable is left to `edge::state`.
