//! `Settings`: the one validated form of a gateway's configuration. Whoever holds one need not
//! doubt it. Reading text into it is left to `native` (TOML) and `knockd` (knockd.conf), writing it
//! to `print`.

use std::net::IpAddr;
use std::path::PathBuf;

pub use crate::core::door::{Door, Step, TcpFlags};
pub use crate::core::service::{
    Client, DisconnectPolicy, Forward, GrantKind, Mode, Service, ServiceCommands, SourceRule,
};
use crate::core::types::{GatewayId, RealmId};

pub mod convert;
pub mod defaults;
pub mod knockd;
pub mod native;
pub mod print;

/// The word for the interfaces that default routes lead out of at the time. No interface can be
/// called so: the kernel keeps the name for itself (net/ipv4/devinet.c,
/// `sysctl_dev_name_is_allowed`).
pub const DEFAULT_ROUTE: &str = "default";

/// All that `toctocd run` needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where things lie and who runs them.
    pub gateway: GatewaySettings,
    /// The sealed knock.
    pub knock: KnockSettings,
    /// The firewall.
    pub firewall: FirewallSettings,
    /// What can be granted, in file order; names are unique.
    pub services: Vec<Service>,
    /// The knockd.conf that the classic doors are read from; absolute.
    pub classic: Option<PathBuf>,
    /// Classic doors, in file order: our own, then those that whoever reads `classic` appends.
    pub doors: Vec<Door>,
    /// Keys of that file's `[options]` that mean nothing to `toctocd run`, as it writes them.
    pub unused_options: Vec<&'static str>,
}

/// Files and names.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewaySettings {
    /// The gateway's secrets (`keys::gateway`), 0600.
    pub key_file: PathBuf,
    /// The enrolled clients (`keys::authorized`), one per line.
    pub clients_file: PathBuf,
    /// Directory of the durable state, on a real disk.
    pub state_dir: PathBuf,
    /// Whether the state may lie on a file system that a reboot empties. Then a reboot forgets used
    /// timestamps.
    pub state_on_tmpfs: bool,
    /// The control socket.
    pub control_socket: PathBuf,
    /// The user that the listener runs as; `None` = the first of `_toctoc` and `nobody` that
    /// exists.
    pub user: Option<String>,
    /// What profiles give as the gateway's addresses: names or IP addresses.
    pub addresses: Vec<String>,
}

/// The sealed knock's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct KnockSettings {
    /// UDP port; nothing is bound to it.
    pub port: u16,
    /// Interfaces to capture on; `any` alone means all, [`DEFAULT_ROUTE`] those that default routes
    /// lead out of.
    pub interfaces: Vec<String>,
    /// Whether the guard drops what arrives for the knock port, so that the kernel never answers
    /// "port unreachable".
    pub silent: bool,
    /// How old a timestamp may be, seconds (default 30).
    pub max_age: u32,
    /// How far ahead a timestamp may be, seconds (default 10).
    pub max_ahead: u32,
    /// A client's token bucket: how many at once (default 64).
    pub burst: u32,
    /// A client's token bucket: how many per second after that (default 4).
    pub per_second: u32,
    /// Live grants that one client may have at once (default 16).
    pub max_grants: u32,
}

/// How grants meet the firewall.
#[derive(Clone, Debug, PartialEq)]
pub struct FirewallSettings {
    /// The name of our nftables table in family inet (default `toctoc`).
    pub table: String,
    /// Path of the nft program.
    pub nft: PathBuf,
    /// Who drops what no grant covers, for services that do not say it themselves (default
    /// [`Mode::GuardCommand`]).
    pub mode: Mode,
    /// The bit of a flow's conntrack mark that says: granted.
    pub mark: u32,
    /// The bit that is set too while a one-connection grant waits for the end of the handshake.
    pub pending_mark: u32,
    /// Addresses that always pass the guard, shown in every status.
    pub break_glass: Vec<IpAddr>,
    /// Where the printed guard lies if nftables.conf includes it (default
    /// `/etc/nftables.d/toctoc.nft`).
    pub printed: PathBuf,
}

/// Who this gateway is, without its secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayIdentity {
    /// The gateway.
    pub gateway: GatewayId,
    /// Its realm.
    pub realm: RealmId,
    /// Its X25519 public key.
    pub public: [u8; 32],
}

/// Whether the kernel could have an interface of this name.
pub fn is_interface(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'"' | b'\\'))
}
