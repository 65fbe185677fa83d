//! The process that touches hostile bytes: one poll loop around `core::engine`.
//! Whether anything opens is left to `gatekeeper`.
