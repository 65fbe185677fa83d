//! One gateway per table and network namespace: a name that only one socket can have, held as long as the guard is ours.
//! What is done with the table is left to `live`.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::core::types::Fault;

/// The proof that no other gateway keeps this table. Ends with the process, however that ends.
pub(super) struct Owner {
    _name: UnixListener,
}

impl Owner {
    /// Takes the name `toctoc/<table>` among the abstract Unix sockets, which are this thread's network namespace's own.
    pub(super) fn claim(table: &str) -> Result<Owner, Fault> {
        let name = SocketAddr::from_abstract_name(format!("toctoc/{table}"));
        name.and_then(|name| UnixListener::bind_addr(&name))
            .map(|_name| Owner { _name })
            .map_err(|e| refusal(table, &e))
    }
}

fn refusal(table: &str, error: &io::Error) -> Fault {
    if error.kind() == io::ErrorKind::AddrInUse {
        return Fault::new(
            format!("another toctocd already keeps the table `{table}` in this network namespace"),
            format!(
                "stop it, or give this one its own firewall.table; `grep @toctoc/{table} /proc/net/unix` shows the claim"
            ),
        );
    }
    Fault::new(format!("the table `{table}` cannot be claimed: {error}"), "run toctocd where Unix sockets can be made")
}
