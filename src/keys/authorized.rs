//! The clients file: one enrolled client per line, options first, as OpenSSH writes authorised keys.
//! Reading and writing the file is left to `edge::files`.
