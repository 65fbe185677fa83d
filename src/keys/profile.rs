//! What a client holds of one gateway, as TOML.
//! Where profiles lie is left to `app`.
