//! The command line of `toctocd`, the gateway.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use super::{
    address, client_name, expiry, fingerprint, gateway_name, grant_name, grant_seconds, holder,
    host, hours, interface, prefixes, service, service_name, trial_seconds,
};
use crate::config::{Service, defaults};
use crate::core::event::KnockId;
use crate::core::hours::Hours;
use crate::core::limits::{Limits, NO_LIMITS};
use crate::core::prefix::Prefix;
use crate::core::types::{Fingerprint, ServiceName};
pub use log::LogArgs;

mod log;

/// Hides network services until an authorized client knocks.
///
/// `toctocd run` is the gateway; all other commands are for its admin. Under the name knockd this
/// program behaves as knockd.
#[derive(Parser, Debug)]
#[command(
    name = "toctocd", version = env!("TOCTOC_VERSION"), max_term_width = 100, after_help = HELP
)]
pub struct ToctocdArgs {
    /// The configuration file. (`init` does not read it: it writes toctocd.toml below its --dir.)
    #[arg(short, long, global = true, value_name = "FILE", default_value = defaults::CONFIG)]
    pub config: PathBuf,
    /// Print the answer, or the fault, as JSON on standard output.
    #[arg(long, global = true)]
    pub json: bool,
    /// The command.
    #[command(subcommand)]
    pub command: ToctocdCommand,
}

const HELP: &str = "\
A new gateway; it asks what to hide, and starts on trial:
  toctocd init
Let somebody in: prints a line, for `toctoc join` on the other machine
  toctocd invite alice --services ssh
See what is open, end it, and see what is wrong:
  toctocd grants
  toctocd close --client alice
  toctocd status
  toctocd top
  toctocd check
Coming from knockd or fwknop:
  toctocd convert /etc/knockd.conf >doors
  toctocd convert --fwknop >services

Exit codes:
  0  done
  1  it could not be done
  2  wrong usage, configuration or keys: nothing was changed
  3  no gateway is running, or it does not answer
  4  another process has it (another gateway, a lock): nothing was changed
  5  the name exists already, or nothing has it: nothing was changed";

/// A command of `toctocd`.
#[derive(Subcommand, Debug)]
pub enum ToctocdCommand {
    /// Run the gateway in the foreground: guard the services, listen for knocks, grant.
    ///
    /// From then on the services are closed to all addresses without a grant. Log lines go to
    /// standard error. SIGHUP reads the configuration again, as `reload` does. SIGTERM ends it; the
    /// guard and current grants stay in the kernel.
    Run {
        /// Begin with a trial: the guard turns itself off after this time, such as 5m, unless a
        /// knock from another machine gets a grant by then. A trial that is under way goes on. At a
        /// terminal the first start begins with one of 5 minutes; 0 leaves it out.
        #[arg(long, value_name = "TIME", value_parser = trial_seconds)]
        confirm: Option<u32>,
        /// Run in the background, with the log in this file, and return once knocks are received,
        /// or with the reason why not.
        #[arg(long, value_name = "LOG", num_args = 0..=1, require_equals = true, default_missing_value = defaults::LOG)]
        background: Option<PathBuf>,
        /// Have each listener started by whoever holds this socket, as `toctoc-listener.socket` of
        /// systemd does, and not by the gateway itself, which then needs fewer privileges.
        #[arg(long, value_name = "SOCKET", conflicts_with = "background")]
        listener_socket: Option<PathBuf>,
    },
    /// Create the keys, a commented configuration, and an empty clients file. Never overwrites
    /// anything.
    ///
    /// At a terminal it asks for what no option says, and offers to start the gateway on trial.
    Init(Init),
    /// Read configuration, keys and clients as `run` would, report problems, and change nothing.
    ///
    /// It looks at this machine too: at other firewalls and rules that lead packets past the guard,
    /// at files that flush it away, at what listens, and at who is invited or expires soon. Warnings
    /// and notes leave the exit code at 0.
    Check {
        /// Print the effective configuration: every key, defaults included.
        #[arg(long)]
        print: bool,
    },
    /// Say whether somebody would get a service now, and if not, why. Nothing is sent or changed.
    ///
    /// The running gateway's own policy decides; without one, the files do. It also follows the
    /// packets through this machine's own firewall. Exit code 1: no.
    Explain(Explain),
    /// Measure what strangers and holders of a grant reach, in a copy of this host's network.
    ///
    /// Sends packets to every port over IPv4 and IPv6, TCP and UDP, while all is shut and under
    /// each kind of grant, and asks what the services behind them offer. Nothing of the host
    /// changes. Needs root. Exit codes: 0 sound, 1 a hole, 2 it could not be done.
    Audit {
        /// Also write the report as one HTML file, which must not exist.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
    /// Invite somebody: prints one line, with which `toctoc join` enrols a key by a knock.
    Invite(Invite),
    /// Enrol, list, show, disable, rotate and revoke clients.
    #[command(subcommand)]
    Client(ClientCommand),
    /// Turn the guard on or off by hand, and show its state.
    #[command(subcommand)]
    Guard(GuardCommand),
    /// Show the state of the running gateway.
    Status,
    /// Watch the running gateway on one screen, each second anew.
    ///
    /// What is open, with bars that run down; who knocked, and what was refused; junk; what is wrong.
    /// Keys end a grant or revoke its client, after a question. A terminal of 80 columns and 24 lines
    /// is enough. With NO_COLOR set it has no colours.
    Top {
        /// Print one picture, and end. JSON always has one.
        #[arg(long)]
        once: bool,
    },
    /// Show what is open now, and for whom.
    Grants {
        /// Print all, however many; otherwise the first 256. JSON has all.
        #[arg(long)]
        all: bool,
    },
    /// End grants before their time: one, or all of a client, of a service, for an address.
    Close(Close),
    /// Find events in the log: by client, service, kind, time, or the id that a client was told.
    ///
    /// Reads the journal, the file with those that logrotate put aside, or what the running gateway
    /// keeps of its last 512 events; it says which.
    Log(LogArgs),
    /// Print what the gateway counts, as OpenMetrics.
    Metrics {
        /// Print the older text of Prometheus, as node_exporter's textfiles have it.
        #[arg(long)]
        prometheus: bool,
    },
    /// Make the running gateway read its configuration again; a bad one changes nothing.
    Reload,
    /// Accept that the state was lost or damaged, or that the clock was ahead. Use it when `status`
    /// reports one of these.
    ///
    /// Until then every knock needs a challenge. Afterwards, packets that were used before the loss
    /// still open nothing: timestamps up to now do not count.
    Reinitialise,
    /// Print the doors of a knockd.conf, or the stanzas of fwknop's access.conf, as sections to
    /// append to toctocd.toml; differences go to standard error.
    ///
    /// Changes nothing. Services that the configuration has already are used, not written again.
    /// Exit code 1: something was left out, or may not do what it did; standard error says what,
    /// and why.
    ///
    /// knockd: pairs of iptables, ufw or firewall-cmd commands become a service that toctocd itself
    /// opens and closes; all other commands stay as they are. fwknop: each port becomes a service,
    /// each stanza a client, whom a command in the comments invites. No key is carried over.
    Convert(Convert),
    /// Print a classic door for the phone app Knock on Ports: a file that it imports.
    Export(Export),
}

/// `toctocd close`.
#[derive(clap::Args, Clone, Debug)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true), after_help = "\
Examples:
  toctocd close alice/ssh@203.0.113.7
  toctocd close --client alice --cut
  toctocd close --service ssh --address 203.0.113.0/24
Whoever may knock can knock again at once: toctocd client revoke NAME")]
pub struct Close {
    /// One grant, by its name as `toctocd grants` shows it: CLIENT/SERVICE@ADDRESS.
    #[arg(group = "which", value_parser = grant_name)]
    pub grant: Option<String>,
    /// All grants of this client; `door:NAME`: of a classic door.
    #[arg(long, value_name = "NAME", group = "which", conflicts_with = "grant", value_parser = holder)]
    pub client: Option<String>,
    /// All grants for this service.
    #[arg(long, value_name = "NAME", group = "which", conflicts_with = "grant", value_parser = service_name)]
    pub service: Option<ServiceName>,
    /// All grants that let this address in, or one of this network.
    #[arg(long, value_name = "ADDRESS", group = "which", conflicts_with = "grant", value_parser = address)]
    pub address: Option<String>,
    /// Also end the connections that came in under them, or under grants that have ended before.
    /// Otherwise those of a service with `cut = "close"` end, and all others go on.
    #[arg(long)]
    pub cut: bool,
}

impl Close {
    /// For the grant of this name alone.
    pub fn one(grant: String) -> Close {
        Close { grant: Some(grant), client: None, service: None, address: None, cut: false }
    }
}

/// `toctocd guard`.
#[derive(Subcommand, Debug)]
pub enum GuardCommand {
    /// Turn the guard on; current grants stay. Works without a running gateway, so also before the
    /// network is up.
    On {
        /// Begin a trial: the guard turns itself off after this time, such as 5m, unless a knock
        /// from another machine gets a grant by then. Gateway and kernel keep the time, so it does
        /// not matter if this terminal is lost. 0 ends a trial, and the guard stays.
        #[arg(long, value_name = "TIME", value_parser = trial_seconds)]
        confirm: Option<u32>,
    },
    /// Turn the guard off, and end all grants: what it guarded is OPEN to everybody, until `guard
    /// on` or the next start.
    Off,
    /// Let current connections to guarded ports continue, once, as if they had been granted, and
    /// print them. For a first installation over SSH: otherwise older sessions hang until their
    /// address has a grant.
    Adopt,
    /// Show the state of the guard, whether or not a gateway is running.
    Status,
    /// Print the guard without its grants, for a file that nftables.conf includes after its flush.
    Print,
}

/// `toctocd explain`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  toctocd explain alice ssh --from 203.0.113.7
  toctocd explain --door web --from 203.0.113.7
What became of a knock, by the id that its client was told:
  toctocd explain --id 7f3a91c2")]
pub struct Explain {
    /// The client's name.
    #[arg(value_name = "CLIENT", required_unless_present_any = ["door", "id"])]
    pub client: Option<String>,
    /// The service that it asks for.
    #[arg(value_name = "SERVICE", required_unless_present_any = ["door", "id"], value_parser = service_name)]
    pub service: Option<ServiceName>,
    /// Ask about this classic door in place of a client.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["client", "service"])]
    pub door: Option<String>,
    /// The address that the knock comes from.
    #[arg(long, value_name = "ADDRESS", required_unless_present = "id")]
    pub from: Option<IpAddr>,
    /// The address that the knock names, as by `toctoc open --source`, if it is another one.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "door")]
    pub source: Option<IpAddr>,
    /// How long it asks for: 90s, 5m, 1h. Default: the service's own time.
    #[arg(long, value_name = "TIME", value_parser = grant_seconds, conflicts_with = "door")]
    pub seconds: Option<u32>,
    /// Say what became of the knock with this id, why, and what it would get now.
    #[arg(long, value_name = "ID", value_parser = log::id, conflicts_with_all = ["client", "service", "door", "from", "source", "seconds"])]
    pub id: Option<KnockId>,
}

/// `toctocd convert`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  toctocd convert /etc/knockd.conf >doors
  toctocd convert --fwknop /etc/fwknop/access.conf /etc/fwknop/fwknopd.conf")]
pub struct Convert {
    /// The files are fwknop's.
    #[arg(long)]
    pub fwknop: bool,
    /// The file to convert. Default: /etc/knockd.conf; with --fwknop /etc/fwknop/access.conf and
    /// fwknopd.conf beside it.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// fwknopd.conf, if stanzas forward or its other settings shall be looked at.
    #[arg(value_name = "FWKNOPD.CONF", requires = "fwknop")]
    pub server: Option<PathBuf>,
}

/// `toctocd export`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  toctocd export web >web.json
  toctocd export web --qr")]
pub struct Export {
    /// The door's name. One whose packets the app cannot send is refused.
    #[arg(value_name = "DOOR")]
    pub door: String,
    /// The host name or IP address to knock at. Default: the gateway's first address.
    #[arg(long, value_name = "HOST", value_parser = host)]
    pub host: Option<String>,
    /// Print the file's text as a QR code instead.
    #[arg(long)]
    pub qr: bool,
}

/// `toctocd init`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Example:
  toctocd init --address gate.example.org --service ssh=22/tcp \\
    --service web=443/tcp,443/udp")]
pub struct Init {
    /// Directory for the files. With another one than the default, state and control socket are
    /// below it too.
    #[arg(long, value_name = "DIR", default_value = "/etc/toctoc")]
    pub dir: PathBuf,
    /// A host name or IP address by which clients reach this gateway; may be given several times.
    #[arg(long = "address", value_name = "HOST", value_parser = host)]
    pub addresses: Vec<String>,
    /// An interface to listen on; may be given several times. Default: all.
    #[arg(long = "interface", value_name = "NAME", value_parser = interface)]
    pub interfaces: Vec<String>,
    /// The UDP port for sealed knocks.
    #[arg(long, value_name = "PORT", default_value_t = defaults::knock().port, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// A service to hide, as NAME=PORT/PROTO[,PORT/PROTO...]; may be given several times. Default:
    /// ssh=22/tcp.
    #[arg(long = "service", value_name = "SERVICE", value_parser = service)]
    pub services: Vec<Service>,
}

/// `toctocd client`.
#[derive(Subcommand, Debug)]
pub enum ClientCommand {
    /// Enrol a client and print its profile. The profile holds secrets: send it over a private
    /// channel.
    Add(ClientAdd),
    /// Let the key in that an invited person joins with.
    Approve(Approve),
    /// List the enrolled clients, and who is invited.
    List,
    /// Give a client a new id and a new profile, when `status` says that its clock was ahead. Its
    /// key, services, limits and door stay. Its current grants end, and nothing that it sent before
    /// ever opens anything.
    Forgive {
        /// The client's name.
        name: String,
        /// Contents and file of the new profile.
        #[command(flatten)]
        profile: ProfileArgs,
    },
    /// Show one client: its key, services and options, when it last knocked, what it has open.
    Show {
        /// The client's name.
        name: String,
    },
    /// Keep a client out for now: its line stays, and its current grants end at once.
    Disable {
        /// The client's name.
        name: String,
    },
    /// Let a disabled client in again, with its old profile.
    Enable {
        /// The client's name.
        name: String,
    },
    /// Give a client new secrets and a new profile, and with --key another key. The old profile
    /// stops working, and its current grants end. Services, options and door stay.
    Rotate {
        /// The client's name.
        name: String,
        /// Its new SSH public key: the whole line, or the .pub file. Default: the key that it has.
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// Contents and file of the new profile.
        #[command(flatten)]
        profile: ProfileArgs,
    },
    /// Remove a client or an invitation. Its current grants end at once, and its profile stops
    /// working.
    Revoke {
        /// The client's name.
        name: String,
    },
}

/// `toctocd invite`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Her key waits for `toctocd client approve alice`:
  toctocd invite alice --services ssh
Only the key with that fingerprint, at once:
  toctocd invite alice --services ssh --key SHA256:...
Whoever has the line first, at once:
  toctocd invite laptop --services ssh --auto
On the other machine: toctoc join")]
pub struct Invite {
    /// A name for the client: one word.
    #[arg(value_parser = client_name)]
    pub name: String,
    /// Services that the client may open, separated by commas.
    #[arg(long, value_name = "SERVICES", required = true, value_delimiter = ',', value_parser = service_name)]
    pub services: Vec<ServiceName>,
    /// Only this key may join, and at once: its SHA256 fingerprint, the whole line of its public
    /// key, or @FILE to read that from.
    #[arg(long, value_name = "KEY", conflicts_with = "auto")]
    pub key: Option<String>,
    /// Let the first key in without approval. Whoever reads the line first, joins.
    #[arg(long)]
    pub auto: bool,
    /// Write the line to this new file, readable by its owner only, instead of printing it. Never
    /// overwrites.
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// A name for this gateway, for the profile and for ssh: a-z 0-9 -. Default: the name of this
    /// machine.
    #[arg(long, value_name = "NAME", value_parser = gateway_name)]
    pub gateway_name: Option<String>,
    /// When the client may open them.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// `toctocd client approve`.
#[derive(clap::Args, Debug)]
pub struct Approve {
    /// The name that was invited.
    #[arg(value_parser = client_name)]
    pub name: String,
    /// The fingerprint that the person told you, as `toctoc join` shows it. Without it, you are
    /// shown the one that waits, and asked.
    #[arg(value_name = "SHA256:...", value_parser = fingerprint)]
    pub fingerprint: Option<Fingerprint>,
}

/// `toctocd client add`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  toctocd client add laptop --key id_ed25519.pub \\
    --services ssh --out laptop.toml
  toctocd client add laptop --key 'ssh-ed25519 AAAA... me@laptop' \\
    --services ssh,web --expires 30d --out laptop.toml
  toctocd client add --authorized-keys ~/.ssh/authorized_keys \\
    --services ssh --out profiles
On the client: toctoc import laptop.toml")]
pub struct ClientAdd {
    /// A name for the client: one word.
    #[arg(value_parser = client_name, required_unless_present = "authorized_keys")]
    pub name: Option<String>,
    /// The client's SSH public key, ssh-ed25519 or sk-ssh-ed25519@openssh.com: the whole line, or
    /// the .pub file.
    #[arg(long, value_name = "KEY", required_unless_present = "authorized_keys")]
    pub key: Option<String>,
    /// Enrol every key of this OpenSSH authorized_keys file that can sign knocks, and list the rest
    /// with the reasons. Names are made of the comments. With --out DIRECTORY, for the profiles.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "key"], requires = "out")]
    pub authorized_keys: Option<PathBuf>,
    /// Services that the client may open, separated by commas.
    #[arg(long, value_name = "SERVICES", required = true, value_delimiter = ',', value_parser = service_name)]
    pub services: Vec<ServiceName>,
    /// When the client may open them.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Contents and file of the profile.
    #[command(flatten)]
    pub profile: ProfileArgs,
}

/// When a client may open its services, for how long, and from where.
#[derive(clap::Args, Debug, Default)]
pub struct LimitArgs {
    /// Expiry: a time from now on (30d, 12h, 1y), a day (its start in UTC), or a moment as
    /// 2027-01-31T12:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = expiry, allow_hyphen_values = true)]
    pub expires: Option<u64>,
    /// No grant before then; as --expires.
    #[arg(long, value_name = "WHEN", value_parser = expiry, allow_hyphen_values = true)]
    pub not_before: Option<u64>,
    /// Only in these hours of the week, by the clocks of a place or UTC. No grant outlasts them:
    /// "Mon-Fri 08:00-18:00 Europe/Berlin"; "Sat-Sun 10:00-12:00, daily 22:00-02:00 UTC".
    #[arg(long, value_name = "HOURS", value_parser = hours)]
    pub hours: Option<Hours>,
    /// Only for these addresses and networks, separated by commas.
    #[arg(long, value_name = "ADDRESSES", value_parser = prefixes)]
    pub from: Option<Prefixes>,
    /// The longest grant for this client: 90s, 5m, 1h, at most 7d.
    #[arg(long, value_name = "TIME", value_parser = grant_seconds)]
    pub max_seconds: Option<u32>,
    /// The most live grants of this client at once.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_grants: Option<u32>,
}

/// Addresses and networks of one option.
#[derive(Clone, Debug)]
pub struct Prefixes(pub Vec<Prefix>);

impl LimitArgs {
    /// The limits of the client's line, if there are any. `expires` is not one of them.
    pub fn limits(&self) -> Option<Arc<Limits>> {
        let limits = Limits {
            max_seconds: self.max_seconds,
            max_grants: self.max_grants,
            not_before: self.not_before,
            hours: self.hours.clone(),
            from: self.from.clone().map(|Prefixes(from)| from).unwrap_or_default(),
            disabled: false,
        };
        (limits != NO_LIMITS).then(|| Arc::new(limits))
    }
}

/// Contents and file of a new profile.
#[derive(clap::Args, Debug)]
pub struct ProfileArgs {
    /// Put the classic sequence of this door into the profile, for networks that no sealed knock
    /// gets through. The client sends it only if its user says so.
    #[arg(long, value_name = "NAME")]
    pub door: Option<String>,
    /// Write the profile to this new file, readable by its owner only, instead of printing it.
    /// Never overwrites. (With --authorized-keys: the directory of the new files NAME.toml.)
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
