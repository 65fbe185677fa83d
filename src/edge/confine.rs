//! Giving privileges away for good, and checking that they are gone.
//! Nothing here is silently optional.
