//! Notes for people: stderr, syslog, file; throttled; control characters escaped.
//! What is worth a note is left to the callers.
