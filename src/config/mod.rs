//! `Settings`: the one validated form of a gateway's configuration.
//! See `native` (TOML) and `knockd` (knockd.conf) for reading it, `print` for writing it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::Serialize;

pub use crate::core::door::{Door, Step, TcpFlags};
use crate::core::event::EventKind;
use crate::core::prefix::Prefix;
pub use crate::core::service::{
    Client, DisconnectPolicy, Forward, GrantKind, Mode, Service, ServiceCommands, ServicePorts,
    SourceRule,
};

pub mod convert;
pub mod defaults;
pub mod duration;
pub mod excerpt;
pub mod knockd;
pub mod native;
pub mod print;

/// The word for the interfaces of the current default routes. No interface can have this name: the
/// kernel reserves it (net/ipv4/devinet.c, `sysctl_dev_name_is_allowed`).
pub const DEFAULT_ROUTE: &str = "default";

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub gateway: GatewaySettings,
    pub knock: KnockSettings,
    pub firewall: FirewallSettings,
    pub log: LogSettings,
    pub metrics: MetricsSettings,
    /// Programs that run on events, in file order; names are unique.
    pub hooks: Vec<Hook>,
    /// The directory whose files are part of these settings.
    pub include: Option<PathBuf>,
    /// The services, in file order; names are unique.
    pub services: Vec<Service>,
    /// The knockd.conf that the classic doors are read from; absolute.
    pub classic: Option<PathBuf>,
    /// Classic doors, in file order: those of toctocd.toml, then those that the reader of `classic`
    /// appends.
    pub doors: Vec<Door>,
    /// Keys of that file's `[options]` that `toctocd run` ignores, in its spelling.
    pub unused_options: Vec<&'static str>,
}

impl Settings {
    /// True if a door or a service has commands, or if there are hooks.
    pub fn runs_commands(&self) -> bool {
        !self.hooks.is_empty()
            || self.services.iter().any(|service| service.commands.is_some())
            || self.doors.iter().any(|door| {
                let commands = [
                    &door.start_command,
                    &door.start_command_6,
                    &door.stop_command,
                    &door.stop_command_6,
                ];
                commands.iter().any(|command| command.is_some())
            })
    }
}

/// Section `[gateway]`. Here and in the next two structs the fields are the keys of toctocd.toml;
/// the template of that name describes them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GatewaySettings {
    pub key_file: PathBuf,
    pub clients_file: PathBuf,
    pub state_dir: PathBuf,
    pub state_on_tmpfs: bool,
    pub control_socket: PathBuf,
    /// `None` = the first of `_toctoc` and `nobody` that exists.
    pub user: Option<String>,
    pub addresses: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KnockSettings {
    pub port: u16,
    /// `any` alone means all, [`DEFAULT_ROUTE`] those of the default routes.
    pub interfaces: Vec<String>,
    /// Interfaces where junk is dropped before the network stack.
    pub xdp: Vec<String>,
    pub silent: bool,
    pub max_age: u32,
    pub max_ahead: u32,
    pub burst: u32,
    pub per_second: u32,
    pub max_grants: u32,
    #[serde(skip)] // `print` has the texts
    pub also_grant: Vec<Prefix>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FirewallSettings {
    pub table: String,
    pub nft: PathBuf,
    /// For services without their own `mode`.
    #[serde(skip)] // `print` has the words
    pub mode: Mode,
    pub mark: u32,
    pub pending_mark: u32,
    pub break_glass: Vec<IpAddr>,
    pub printed: PathBuf,
}

/// Section `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    pub to: LogTarget,
    pub form: LogForm,
}

/// Where the log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error; with the fields if that is the journal's.
    Stderr,
    Journal,
    Syslog,
    /// A file, with an absolute path.
    File(PathBuf),
}

/// The form of a line in a stream or a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogForm {
    Text,
    Json,
}

/// Section `[metrics]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsSettings {
    /// Where scrapes are answered: on this machine only.
    pub listen: Option<MetricsPlace>,
    /// The file for node_exporter, and the seconds from one writing to the next.
    pub textfile: Option<PathBuf>,
    pub seconds: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsPlace {
    /// A loopback address.
    Tcp(SocketAddr),
    Socket(PathBuf),
}

/// Section `[hook.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    pub name: String,
    pub events: Vec<EventKind>,
    /// The program, by an absolute path, and its arguments.
    pub run: Vec<String>,
}

/// True if the kernel could have an interface of this name.
pub fn is_interface(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'"' | b'\\'))
}
