//! The command line of `toctoc`, the client.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::Parser;

use super::{duration, grant_seconds, service_name};
use crate::app::knock::KnockArgs;
use crate::app::paths::is_profile_name;
use crate::core::types::{PortRange, ServiceName};

/// Knocks at a toctoc gateway: one sealed datagram, and the port opens for you alone.
///
/// You need a key, and a profile that the gateway's admin makes for it. Under the name knock this
/// program behaves as knock.
#[derive(Parser, Debug)]
#[command(
    name = "toctoc", version = env!("TOCTOC_VERSION"), max_term_width = 100, after_help = HELP
)]
pub enum ToctocCommand {
    /// Ask for a grant, and print the granted address, ports and end.
    Open(Open),
    /// End your own grants for a service.
    Close(Close),
    /// Knock, then connect standard input and output to the service: a ProxyCommand for ssh.
    Connect(Connect),
    /// Show, install or remove the lines with which plain `ssh PROFILE` knocks first.
    SshConfig(SshConfig),
    /// Ask the gateway which address and clock it sees; grants nothing.
    Probe(Probe),
    /// Find out why a knock or a connection does not work, and what to do.
    ///
    /// Looks at profile, key, names, routes, clock, NAT and gateway, then opens the service for ten
    /// seconds and connects to it.
    Doctor(Doctor),
    /// Scan a gateway from here: with a profile of it also while a service is open, and after.
    Audit(Audit),
    /// Enrol your key with the line that a gateway's admin sent you, and write the profile.
    Join(Join),
    /// Make an ssh-ed25519 key to knock with.
    Keygen(Keygen),
    /// Store a profile that the gateway's admin made.
    Import(Import),
    /// List your profiles, with the services that each may open.
    #[command(alias = "profiles")]
    List {
        /// Print a JSON list.
        #[arg(long)]
        json: bool,
    },
    /// Choose the profile of commands that name none, and its default service; or show them.
    Default {
        /// A profile's name. With a service, that is the profile's default one from now on.
        #[arg(value_name = "PROFILE[:SERVICE]", value_parser = target)]
        target: Option<Target>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Remove a profile, and what `toctoc ssh-config` wrote for it. The key stays.
    Remove {
        /// A profile's name.
        profile: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print for each stanza of fwknop's .fwknoprc the commands that do the same.
    ///
    /// Changes nothing. No key is carried over: the gateway's admin sends an invitation. Exit code
    /// 1: something was left out; standard error says what, and why.
    Convert {
        /// The file to convert. Default: .fwknoprc in your home directory.
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Hit a sequence of ports, as the `knock` of knockd does. It is sent in cleartext.
    Knock(KnockArgs),
}

impl ToctocCommand {
    /// True if the answer is for a program.
    pub fn wants_json(&self) -> bool {
        match self {
            ToctocCommand::Open(args) => args.json,
            ToctocCommand::Close(args) => args.json,
            ToctocCommand::SshConfig(args) => args.json,
            ToctocCommand::Probe(args) => args.json,
            ToctocCommand::Doctor(args) => args.json,
            ToctocCommand::Audit(args) => args.json,
            ToctocCommand::Join(args) => args.json,
            ToctocCommand::Keygen(args) => args.json,
            ToctocCommand::Import(args) => args.json,
            ToctocCommand::List { json }
            | ToctocCommand::Default { json, .. }
            | ToctocCommand::Remove { json, .. }
            | ToctocCommand::Convert { json, .. } => *json,
            ToctocCommand::Connect(_) | ToctocCommand::Knock(_) => false,
        }
    }
}

const HELP: &str = "\
First steps, with the line that the gateway's admin sent you:
  toctoc join
It offers to let plain ssh knock by itself. Then, by the gateway's name:
  ssh bastion

Exit codes:
  0  done: granted, closed, probe answered, or classic sequence sent
  1  the gateway refused, and said why; or your key waits for approval
  2  wrong usage, profile, key or file: nothing was sent or changed
  3  no answer: the result is unknown
  4  nothing could be sent: no network, or the name does not resolve;
     or `connect` was granted the service, and it did not answer
  5  done over one address of the gateway and refused over another: mostly IPv4
     and IPv6
`toctoc knock`: 0 everything was sent, 1 something was not sent, 2 wrong usage

Each command knocks at the first IPv4 and the first IPv6 address of the gateway
at once. While nothing answers it tries up to three more addresses of each, a
timeout apart.";

/// A profile, and perhaps a service of it: `home`, `home:ssh`, `./home.toml:ssh`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub profile: String,
    pub service: Option<ServiceName>,
}

/// A path may hold a colon. A service's name holds no separator, and a profile's name no colon.
pub fn target(text: &str) -> Result<Target, String> {
    if let Some((profile, service)) = text.rsplit_once(':')
        && (is_profile_name(profile) || ServiceName::new(service).is_some())
    {
        return Ok(Target { profile: profile.to_owned(), service: Some(service_name(service)?) });
    }
    Ok(Target { profile: text.to_owned(), service: None })
}

fn tcp_ports(text: &str) -> Result<PortRange, String> {
    let remedy = "write a port from 1 to 65535, or a range such as 8000-8100";
    PortRange::read(&format!("{text}/tcp")).ok_or_else(|| remedy.to_owned())
}

fn timeout(text: &str) -> Result<u64, String> {
    match duration(text) {
        Some(seconds @ 1..=60) => Ok(seconds.into()),
        _ => Err("write a time from 1s to 1m, such as 5s".to_owned()),
    }
}

/// The gateway, and how to knock.
#[derive(clap::Args, Debug)]
pub struct Common {
    /// A profile's name (see `toctoc list`), or the path of its file. Default: the only profile, or
    /// the one that `toctoc default` chose.
    #[arg(value_name = "PROFILE[:SERVICE]", value_parser = target)]
    pub target: Option<Target>,
    /// Use this private key file, instead of the one that the profile names or of looking for it in
    /// the ssh-agent and the usual files. A .pub file means its private half.
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Wait this long for each answer, at most 1m. Before it knocks again, toctoc waits a little
    /// longer, at random.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = timeout)]
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
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  toctoc open home ssh
  toctoc open home:ssh --seconds 10m
Run a command once the service is open; its exit code is the result:
  toctoc open home ssh -- ssh gate.example.org
Name the address that you will connect from:
  toctoc open home ssh --source 203.0.113.7
Knock by IPv6 and connect by IPv4, if the gateway's policy allows it:
  toctoc open home ssh --source 203.0.113.7 -6
No sealed knock gets through, and you accept the risk:
  toctoc open home --classic")]
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
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Run this command once the service is open; its exit code is the result.
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["classic", "json"])]
    pub command: Vec<OsString>,
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
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Each line begins with ok, warn or FAIL, and says what to do. The exit code is
that of the first FAIL, as for the other commands; 0 if there is none.")]
pub struct Doctor {
    /// The gateway, and how to knock.
    #[command(flatten)]
    pub common: Common,
    /// The service to try. Default: the profile's default service.
    #[arg(value_parser = service_name)]
    pub service: Option<ServiceName>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  toctoc audit home
  toctoc audit gate.example.org --ports 1-65535
  toctoc audit home --service ssh --html audit.html
With a profile it opens the service for 15 seconds and waits for the end.
Exit codes: 0 sound, 1 a hole, otherwise as for the other commands.")]
pub struct Audit {
    /// A profile's name or file; or a host name or IP address, also of no gateway.
    #[arg(value_name = "HOST")]
    pub profile: String,
    /// The service to open. Default: the profile's default service.
    #[arg(long, value_name = "SERVICE", value_parser = service_name)]
    pub service: Option<ServiceName>,
    /// TCP ports and ranges to scan, separated by commas. Default: the usual ones. The ports of the
    /// grant come in addition.
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = tcp_ports)]
    pub ports: Option<Vec<PortRange>>,
    /// Use this private key file, as for `toctoc open`.
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Also write the report as one HTML file, which must not exist.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::Args, Debug)]
pub struct Probe {
    /// The gateway, and how to knock.
    #[command(flatten)]
    pub common: Common,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Standard input goes to the service, and its answer to standard output. In
~/.ssh/config:
  Host home
      ProxyCommand toctoc connect %n:ssh
`toctoc ssh-config --install` writes these lines.")]
pub struct Connect {
    /// The gateway, and how to knock.
    #[command(flatten)]
    pub common: Common,
    /// The TCP port to connect to. Default: 22 if the grant covers it, otherwise its first one.
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Length of the grant: 90s, 5m, 1h, at most 7d. Default: 15s, for it need only last until the
    /// connection is made.
    #[arg(short, long, value_name = "TIME", value_parser = grant_seconds)]
    pub seconds: Option<u32>,
    /// Ask the gateway which address it sees you come from, and use that: for a network whose NAT
    /// the gateway is behind as well.
    #[arg(long)]
    pub ask_source: bool,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Only show the lines:
  toctoc ssh-config home
Write them, so that ssh knocks first:
  toctoc ssh-config home --install
  ssh home
Remove them again:
  toctoc ssh-config home --remove

The lines go to ~/.ssh/toctoc.conf. ~/.ssh/config gets one line at its top,
which includes that file; nothing else in it changes.")]
pub struct SshConfig {
    /// A profile's name; it becomes the name for ssh. Default: as for `toctoc open`.
    #[arg(value_name = "PROFILE[:SERVICE]", value_parser = target)]
    pub target: Option<Target>,
    /// Write the lines for ssh, unless ssh already takes that name elsewhere.
    #[arg(long)]
    pub install: bool,
    /// Remove the lines again.
    #[arg(long, conflicts_with = "install")]
    pub remove: bool,
    /// Write lines that ask the gateway which address it sees you come from: see `toctoc connect`.
    #[arg(long, conflicts_with = "remove")]
    pub ask_source: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::Args, Debug, Default)]
#[command(after_help = "\
Examples:
  toctoc join
  cat FILE | toctoc join -
The first one asks for the line, and does not show it. The gateway's admin makes
it: toctocd invite NAME --services ssh")]
pub struct Join {
    /// The invitation, which begins with toctoc: or - for standard input. Better give none, and
    /// paste it when asked: a command line is seen by others, and stays in the shell's history.
    #[arg(value_name = "LINE")]
    pub line: Option<String>,
    /// Join with this private key. Default: the first one of id_ed25519 in toctoc's configuration
    /// directory, of the usual ones in ~/.ssh, and of the ssh-agent; if there is none, a new one.
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Name of the profile here. Default: the gateway's name in the invitation.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Do not wait for an admin's approval: the next `toctoc open` asks again.
    #[arg(long)]
    pub no_wait: bool,
    /// If a key is made: do not ask for a passphrase. Everyone who gets the file can knock as you.
    #[arg(long)]
    pub no_passphrase: bool,
    /// Print a JSON list of the new profile, and ask nothing about ssh.
    #[arg(long)]
    pub json: bool,
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
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  toctoc import laptop.toml --name home
Without a file in between, where you are root at the gateway:
  ssh root@gate toctocd client add laptop --services ssh \\
      --key \"'$(cat ~/.ssh/id_ed25519.pub)'\" | toctoc import - --name home")]
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
    /// Print a JSON list of the new profile.
    #[arg(long)]
    pub json: bool,
}
