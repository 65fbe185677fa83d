//! Both clocks and entropy, read here and passed in everywhere else.
//! What moments mean is left to `core`.
