//! Random bytes from the kernel, fetched here and passed in.
//! What they become is left to `core` and `keys`.

use crate::core::types::Fault;

/// `N` random bytes.
///
/// # Errors
/// The kernel has none to give: then nothing secret may be made.
pub fn bytes<const N: usize>() -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| {
        Fault::new(
            format!("no random bytes from the system: {e}"),
            "nothing secret can be made without; mend that first",
        )
    })?;
    Ok(bytes)
}
