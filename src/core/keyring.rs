//! Secrets and the keys derived from them; the tag table that finds a client in one look-up.
//! Text forms and files are left to `keys`.
