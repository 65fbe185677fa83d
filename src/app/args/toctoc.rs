//! The command line of `toctoc`, the client.
//! Words shared with the gateway's are left to `args`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::service_name;
use crate::app::knock::KnockArgs;
use crate::core::types::ServiceName;

/// Knocks at a toctoc gateway: one sealed datagram, and the port opens for you alone.
///
/// You need a key, and a profile that the gateway's admin makes for it. Started by the name knock
/// it behaves as knock.
#[derive(Parser, Debug)]
#[command(name = "toctoc", version, max_term_width = 100, after_help = HELP)]
pub struct ToctocArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ToctocCommand,
}

const HELP: &str = "\
From zero to ssh:
  toctoc keygen                      # or use the ssh-ed25519 key you have
  toctoc import laptop.toml          # the profile that the gateway's admin made for you
  toctoc open gate.example.org ssh && ssh gate.example.org

Exit codes:
  0  done: granted, closed, or the probe was answered; the hits of a classic sequence have left
  1  the gateway refused, and said so
  2  wrong usage, profile or key: nothing was sent
  3  no answer: nothing is known
  4  nothing could be sent: no network, or the name does not resolve
`toctoc knock`: 0 all hits have left, 1 one of them has not, 2 wrong usage";

/// A command of `toctoc`.
#[derive(Subcommand, Debug)]
pub enum ToctocCommand {
    /// Ask for a grant, and say what was granted to which address until when.
    Open(Open),
    /// End your own grants for a service.
    Close(Close),
    /// Ask the gateway what address and clock it sees; grants nothing.
    Probe(Probe),
    /// Make an ssh-ed25519 key to knock with.
    Keygen(Keygen),
    /// Keep a profile that the gateway's admin made.
    Import(Import),
    /// Show the profiles you have.
    Profiles {
        /// As a JSON list.
        #[arg(long)]
        json: bool,
    },
    /// Hit ports in a row, as the `knock` of knockd does. It crosses the network in the clear.
    Knock(KnockArgs),
}

/// What the sealed commands have in common.
#[derive(clap::Args, Debug)]
pub struct Common {
    /// A profile's name (see `toctoc profiles`), or the path of its file.
    pub profile: String,
    /// Use this private key instead of the profile's.
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Wait so long for each answer, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub timeout: u64,
    /// Knock at most so many times, each time with a new packet.
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10))]
    pub attempts: u32,
    /// IPv4 only.
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// IPv6 only.
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// Answer with one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// `toctoc open`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  toctoc open gate ssh
  toctoc open gate ssh --seconds 600
  toctoc open gate ssh --source 203.0.113.7   # you know better where you come from
  toctoc open gate ssh --source 203.0.113.7 -6   # knock by IPv6, connect by IPv4, if the gateway's policy has that address
  toctoc open gate ssh --source-port 40022 && ssh -o 'ProxyCommand=nc -p 40022 %h %p' gate
  toctoc open gate --classic                  # no sealed knock gets through, and you accept the risk")]
pub struct Open {
    /// Which gateway, and how.
    #[command(flatten)]
    pub common: Common,
    /// What to open; without it, the profile's default.
    #[arg(value_parser = service_name)]
    pub service: Option<ServiceName>,
    /// How long, seconds; without it, as the gateway likes.
    #[arg(short, long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=604_800))]
    pub seconds: Option<u32>,
    /// The address to grant, if you know better than this machine does. The knock must come from
    /// it, unless the gateway's policy lists its prefix for that service.
    #[arg(long, value_name = "IP")]
    pub source: Option<IpAddr>,
    /// Grant connections from this source port alone, so that nobody else behind your address can
    /// use it. Only where no NAT is in between, because that chooses other ports, and only if you
    /// make the client connect from this port.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub source_port: Option<u16>,
    /// Ask the gateway where it sees you come from, and name that, even if this machine's own
    /// address seems good.
    #[arg(long, conflicts_with = "source")]
    pub ask_source: bool,
    /// Send the classic sequence of a door that the profile holds, and no sealed knock. It opens
    /// what that door opens, to whoever sees and repeats it, and nobody says whether it did.
    #[arg(long, conflicts_with_all = ["seconds", "ask_source", "json", "identity"])]
    pub classic: bool,
}

/// `toctoc close`.
#[derive(clap::Args, Debug)]
pub struct Close {
    /// Which gateway, and how.
    #[command(flatten)]
    pub common: Common,
    /// What to close; without it, the profile's default.
    #[arg(value_parser = service_name)]
    pub service: Option<ServiceName>,
    /// The address that was granted, if it was named.
    #[arg(long, value_name = "IP")]
    pub source: Option<IpAddr>,
    /// Ask the gateway where it sees you come from, and name that, even if this machine's own
    /// address seems good.
    #[arg(long, conflicts_with = "source")]
    pub ask_source: bool,
}

/// `toctoc probe`.
#[derive(clap::Args, Debug)]
pub struct Probe {
    /// Which gateway, and how.
    #[command(flatten)]
    pub common: Common,
}

/// `toctoc keygen`.
#[derive(clap::Args, Debug)]
pub struct Keygen {
    /// Where the private key goes; the public one goes beside it with .pub. Without it: id_ed25519
    /// in toctoc's own configuration directory, where it is found by itself.
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// A comment on the public line.
    #[arg(short = 'C', long, value_name = "TEXT", default_value = "toctoc")]
    pub comment: String,
    /// Do not ask for a passphrase: whoever gets the file can knock as you.
    #[arg(long)]
    pub no_passphrase: bool,
}

/// `toctoc import`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  toctoc import laptop.toml
  ssh root@gate toctocd client add laptop --key \"'$(cat ~/.config/toctoc/id_ed25519.pub)'\" --services ssh | toctoc import -")]
pub struct Import {
    /// The profile's file, or - for standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    pub file: PathBuf,
    /// What to call it here; without it, the gateway's first address.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Take the place of a profile of that name.
    #[arg(long)]
    pub replace: bool,
}
