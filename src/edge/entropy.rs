//! Random bytes from the kernel, fetched here and passed in.

use crate::core::keyring::Secret;
use crate::core::types::Fault;

/// Fills `bytes` with random ones. Fails if the kernel has none: then nothing secret may be made.
pub fn fill(bytes: &mut [u8]) -> Result<(), Fault> {
    getrandom::fill(bytes).map_err(|error| {
        let what = format!("no random bytes from the system: {error}");
        Fault::new(what, "nothing secret can be made without them; fix that first")
    })
}

/// `N` random bytes that are not secret: an id, a nonce.
pub fn bytes<const N: usize>() -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

/// `N` secret random bytes.
pub fn secret<const N: usize>() -> Result<Secret<N>, Fault> {
    Secret::filled(|bytes| fill(bytes))
}
