//! The command line of `toctocd`, the gateway.
//! Words shared with the client's are left to `args`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::{ServiceArg, client_name, host, interface, moment, service_arg, service_name};
use crate::config::defaults;
use crate::core::types::ServiceName;

/// Hides network services until somebody who may enter knocks.
///
/// `toctocd run` is the gateway; all other commands are for its admin. Started by the name knockd
/// it behaves as knockd.
#[derive(Parser, Debug)]
#[command(name = "toctocd", version, max_term_width = 100, after_help = HELP)]
pub struct ToctocdArgs {
    /// The configuration file. (`init` reads none: it writes toctocd.toml below its --dir.)
    #[arg(short, long, global = true, value_name = "FILE", default_value = defaults::CONFIG)]
    pub config: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: ToctocdCommand,
}

const HELP: &str = "\
A gateway in four steps:
  toctocd init --address gate.example.org --service ssh=22/tcp
  toctocd client add laptop --key 'ssh-ed25519 AAAA... me@laptop' --services ssh --out laptop.toml
  toctocd check
  toctocd run                        # from now on ssh needs a knock: have a second way in

Coming from knockd:
  toctocd convert /etc/knockd.conf >>/etc/toctoc/toctocd.toml

Exit codes:
  0  done
  1  it could not be done
  2  wrong usage, configuration or keys: nothing was changed";

/// A command of `toctocd`.
#[derive(Subcommand, Debug)]
pub enum ToctocdCommand {
    /// Serve: guard the services, listen for knocks, grant. Stays in the foreground.
    ///
    /// From then on the services are shut to all but granted addresses. Log lines go to standard
    /// error. SIGHUP reads the configuration again, as `reload` does; SIGTERM ends it, and leaves
    /// the guard and live grants to the kernel.
    Run,
    /// Make the keys, a configuration with comments, and an empty clients file. Never overwrites
    /// anything.
    Init(Init),
    /// Read configuration, keys and clients as `run` would, and change nothing.
    Check {
        /// Print the effective configuration: every key, defaults included.
        #[arg(long)]
        print: bool,
    },
    /// Enrol, list and revoke clients.
    #[command(subcommand)]
    Client(ClientCommand),
    /// Put the guard up or take it away by hand, and see how it stands.
    #[command(subcommand)]
    Guard(GuardCommand),
    /// Ask the running gateway how it is.
    Status {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Show what is open now, and for whom.
    Grants {
        /// As a JSON list.
        #[arg(long)]
        json: bool,
    },
    /// Have the running gateway read its configuration again; a bad one changes nothing.
    Reload,
    /// Accept that the state was lost or damaged, or that the clock was ahead, after `status` said
    /// so.
    ///
    /// Until then every knock needs a challenge. A packet that was used before the loss stays
    /// worthless: timestamps up to now do not count.
    Reinitialise,
    /// Print the doors of a knockd.conf as sections to append to toctocd.toml; on standard error,
    /// what is different.
    ///
    /// Nothing is changed. Pairs of iptables or ufw commands for a port become a service that
    /// toctocd itself opens and shuts; all other commands stay as they are. Services that the
    /// configuration has already are used, not written again. Exit code 1: something is left out,
    /// and standard error says what.
    Convert {
        /// The file to convert.
        #[arg(value_name = "FILE", default_value = "/etc/knockd.conf")]
        file: std::path::PathBuf,
    },
}

/// `toctocd guard`.
#[derive(Subcommand, Debug)]
pub enum GuardCommand {
    /// Shut what the guard shuts; grants that live stay. Works without a running gateway, so also
    /// before the network is up.
    On {
        /// Take the guard away again after so long, unless a knock from another machine opened
        /// something by then.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
        confirm: Option<u32>,
    },
    /// Take the guard away, and all grants with it: what it guarded is OPEN to everybody, until
    /// `guard on` or the next start.
    Off,
    /// Let what is connected to a guarded port now go on, once, as if it had been granted; prints
    /// what that was. For a first installation over SSH: without it older sessions stand still
    /// until their address has a grant.
    Adopt,
    /// Show how the guard stands, whether or not a gateway runs.
    Status,
    /// Print the guard without its grants, for a file that nftables.conf includes after its flush.
    Print,
}

/// `toctocd init`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  toctocd init --address gate.example.org --service ssh=22/tcp --service web=443/tcp,443/udp")]
pub struct Init {
    /// Where the files go. With another directory than this, state and control socket lie below it
    /// too.
    #[arg(long, value_name = "DIR", default_value = "/etc/toctoc")]
    pub dir: PathBuf,
    /// A host name or IP address by which clients reach this gateway; may be given several times.
    #[arg(long = "address", value_name = "HOST", value_parser = host)]
    pub addresses: Vec<String>,
    /// An interface to listen on; may be given several times. Without it: all.
    #[arg(long = "interface", value_name = "NAME", value_parser = interface)]
    pub interfaces: Vec<String>,
    /// The UDP port to knock at.
    #[arg(long, value_name = "PORT", default_value_t = defaults::knock().port, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// A service to hide, as NAME=PORT/PROTO[,PORT/PROTO...]; may be given several times.
    #[arg(long = "service", value_name = "SERVICE", value_parser = service_arg, default_value = "ssh=22/tcp")]
    pub services: Vec<ServiceArg>,
}

/// `toctocd client`.
#[derive(Subcommand, Debug)]
pub enum ClientCommand {
    /// Enrol a client and print its profile, which holds secrets: hand it over in private.
    Add(ClientAdd),
    /// Show who is enrolled.
    List {
        /// As a JSON list.
        #[arg(long)]
        json: bool,
    },
    /// Give a client a clean start, with a new id and a new profile: for one that `status` calls
    /// ahead. Its key, services and limits stay; its live grants end; nothing that it sent before
    /// ever opens anything.
    Forgive {
        /// The client's name.
        name: String,
        /// What the new profile holds, and where it goes.
        #[command(flatten)]
        profile: ProfileArgs,
    },
    /// Remove a client; its live grants end at once, its profile is worth nothing from then on.
    Revoke {
        /// The client's name.
        name: String,
    },
}

/// `toctocd client add`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  toctocd client add laptop --key 'ssh-ed25519 AAAA... me@laptop' --services ssh --out laptop.toml
  toctocd client add laptop --key @/tmp/id_ed25519.pub --services ssh,web --expires 2027-01-31 --out laptop.toml
On the client: toctoc import laptop.toml")]
pub struct ClientAdd {
    /// A name for people: one word.
    #[arg(value_parser = client_name)]
    pub name: String,
    /// Its SSH public key (ssh-ed25519), the whole line, or @FILE to read it from.
    #[arg(long, value_name = "KEY")]
    pub key: String,
    /// What it may open, separated by commas.
    #[arg(long, value_name = "SERVICES", required = true, value_delimiter = ',', value_parser = service_name)]
    pub services: Vec<ServiceName>,
    /// When it ends by itself: a day (its begin in UTC) or a moment as 2027-01-31T12:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    pub expires: Option<u64>,
    /// The longest grant for this client, seconds.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=604_800))]
    pub max_seconds: Option<u32>,
    /// What the profile holds, and where it goes.
    #[command(flatten)]
    pub profile: ProfileArgs,
}

/// What a new profile holds, and where it goes.
#[derive(clap::Args, Debug)]
pub struct ProfileArgs {
    /// Put the classic sequence of this door into the profile, for when no sealed knock gets
    /// through. The client sends it only when its user says so.
    #[arg(long, value_name = "NAME")]
    pub door: Option<String>,
    /// Write the profile there, for its owner's eyes only, instead of printing it; never
    /// overwrites.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
