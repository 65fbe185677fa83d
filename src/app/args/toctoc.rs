//! The command line of `toctoc`, the client.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Parser;

use super::{grant_seconds, service_name};
use crate::app::knock::KnockArgs;
use crate::core::types::ServiceName;

/// Knocks at a toctoc gateway: one sealed datagram, and the port opens for you alone.
///
/// You need a key, and a profile that the gateway's admin makes for it. Under the name knock this
/// program behaves as knock.
#[derive(Parser, Debug)]
#[command(name = "toctoc", version, max_term_width = 100, after_help = HELP)]
pub enum ToctocCommand {
    /// Ask for a grant, and print the granted address, ports and end.
    Open(Open),
    /// End your own grants for a service.
    Close(Close),
    /// Ask the gateway which address and clock it sees; grants nothing.
    Probe(Common),
    /// Make an ssh-ed25519 key to knock with.
    Keygen(Keygen),
    /// Store a profile that the gateway's admin made.
    Import(Import),
    /// List your profiles.
    Profiles {
        /// Print a JSON list.
        #[arg(long)]
        json: bool,
    },
    /// Hit a sequence of ports, as the `knock` of knockd does. It is sent in cleartext.
    Knock(KnockArgs),
}

const HELP: &str = "\
First steps:
  toctoc keygen                      # or use the Ed25519 key you have, also a FIDO one
  toctoc import laptop.toml          # the profile that the gateway's admin made for you
  toctoc open gate.example.org ssh && ssh gate.example.org

Exit codes:
  0  done: granted, closed, probe answered, or classic sequence sent
  1  the gateway refused, and said why
  2  wrong usage, profile, key or file: nothing was sent or changed
  3  no answer: the result is unknown
  4  nothing could be sent: no network, or the name does not resolve
  5  done over one address of the gateway and refused over another, mostly IPv4 and IPv6
`toctoc knock`: 0 everything was sent, 1 something was not sent, 2 wrong usage

Each command knocks at the first IPv4 and the first IPv6 address of the gateway at once. While
nothing answers it tries up to three more addresses of each, a timeout apart.";

/// Arguments of all sealed commands, and the only ones of `toctoc probe`.
#[derive(clap::Args, Debug)]
pub struct Common {
    /// A profile's name (see `toctoc profiles`), or the path of its file.
    pub profile: String,
    /// Use this private key file, instead of the one that the profile names or of looking for it in
    /// the ssh-agent and the usual files. A .pub file means its private half.
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Wait this many seconds for each answer. Before it knocks again, toctoc waits a little
    /// longer, at random.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub timeout: u64,
    /// Send at most this many knocks to each address, each in a new packet. Each second one asks
    /// for the time, in case this machine's clock is wrong.
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10))]
    pub attempts: u32,
    /// IPv4 only.
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// IPv6 only.
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  toctoc open gate ssh
  toctoc open gate ssh --seconds 10m
  toctoc open gate ssh --source 203.0.113.7   # the address that you will connect from
  toctoc open gate ssh --source 203.0.113.7 -6   # knock by IPv6, connect by IPv4, if the gateway's policy allows it
  toctoc open gate ssh --source-port 40022 && ssh -o 'ProxyCommand=nc -p 40022 %h %p' gate
  toctoc open gate --classic                  # no sealed knock gets through, and you accept the risk")]
pub struct Open {
    /// The gateway, and how to knock.
    #[command(flatten)]
    pub common: Common,
    /// The service to open. Default: the profile's default service.
    #[arg(value_parser = service_name)]
    pub service: Option<ServiceName>,
    /// Length of the grant: 90s, 5m, 1h, at most 7d. Default: the gateway's setting.
    #[arg(short, long, value_name = "TIME", value_parser = grant_seconds)]
    pub seconds: Option<u32>,
    /// The address to grant, if it is not the one this machine would choose. The knock must come
    /// from it, unless the gateway's policy allows its prefix for that service.
    #[arg(long, value_name = "IP")]
    pub source: Option<IpAddr>,
    /// Grant only connections from this source port, so that nobody else behind your address can
    /// use the grant. Your program must connect from this port, and no NAT may be in between,
    /// because a NAT changes source ports.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub source_port: Option<u16>,
    /// Ask the gateway which address it sees you come from, and use that, even if this machine's
    /// own address looks usable. An address that a device in front of the gateway gives to
    /// everybody is not used.
    #[arg(long, conflicts_with = "source")]
    pub ask_source: bool,
    /// Send the classic sequence in the profile instead of a sealed knock. It is sent in cleartext:
    /// everyone who sees it can repeat it. There is no answer that says whether the door opened.
    #[arg(long, conflicts_with_all = ["seconds", "ask_source", "json", "identity"])]
    pub classic: bool,
}

#[derive(clap::Args, Debug)]
pub struct Close {
    /// The gateway, and how to knock.
    #[command(flatten)]
    pub common: Common,
    /// The service to close. Default: the profile's default service.
    #[arg(value_parser = service_name)]
    pub service: Option<ServiceName>,
    /// The granted address, if you named one.
    #[arg(long, value_name = "IP")]
    pub source: Option<IpAddr>,
    /// Ask the gateway which address it sees you come from, and use that, even if this machine's
    /// own address looks usable.
    #[arg(long, conflicts_with = "source")]
    pub ask_source: bool,
}

#[derive(clap::Args, Debug)]
pub struct Keygen {
    /// File for the private key; the public key goes beside it with .pub. Default: id_ed25519 in
    /// toctoc's configuration directory, where every command finds it.
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Comment in the public key line.
    #[arg(short = 'C', long, value_name = "TEXT", default_value = "toctoc")]
    pub comment: String,
    /// Do not ask for a passphrase: everyone who gets the file can knock as you.
    #[arg(long)]
    pub no_passphrase: bool,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  toctoc import laptop.toml
  ssh root@gate toctocd client add laptop --key \"'$(cat ~/.config/toctoc/id_ed25519.pub)'\" --services ssh | toctoc import -")]
pub struct Import {
    /// The profile's file, or - for standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    pub file: PathBuf,
    /// Name of the profile here. Default: the gateway's first address.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Replace a profile of that name.
    #[arg(long)]
    pub replace: bool,
}
