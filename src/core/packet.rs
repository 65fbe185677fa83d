//! IP bytes -> `Sighting`, by an explicit refusal list; no allocation.
//! What the payload means is left to `wire` and `sequence`.
