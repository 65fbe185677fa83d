//! Starting a listener and handing it what it needs: sockets, keys, clients, doors, addresses.
//! What it reports afterwards is left to `gatekeeper`.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child as Process, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{User, geteuid};

use crate::app::interfaces;
use crate::app::load::GatewayConfig;
use crate::config::DEFAULT_ROUTE;
use crate::core::door::{Door, Step, TcpFlags};
use crate::core::sequence::{DoorSpec, Ipv6};
use crate::core::types::{ClientId, Fault, Reject};
use crate::edge::addresses::LocalAddress;
use crate::edge::confine::{self, Failure, Limitations};
use crate::edge::gatekeeper_pipe::{self, GatekeeperEnd, PipeError, ToGatekeeper, ToListener};
use crate::edge::{bpf, capture, raw};

/// The hidden argument by which the program knows that it is to be the listener.
pub const ROLE: &str = "--listener";
/// How long a listener may take from its start to `Ready`, 100,000 clients included.
const PATIENCE: Duration = Duration::from_secs(20);
/// Users that the listener runs as unless the configuration names one, the first that exists.
const USERS: [&str; 2] = ["_toctoc", "nobody"];

/// A running listener. Killed and waited for when dropped.
pub(super) struct ListenerProcess {
    process: Process,
    /// Our end of the pipe.
    pub(super) pipe: GatekeeperEnd,
    /// What this machine could not do to confine it, one sentence each.
    pub(super) degraded: Vec<String>,
    /// The clients that it knows, by the row under which it names them.
    pub(super) rows: Vec<ClientId>,
    /// The doors that it watches, by index.
    pub(super) doors: Vec<Door>,
    /// The interfaces that the configuration meant when it was started.
    pub(super) meant: Vec<String>,
    /// The interfaces that it captures on, by the number of their socket.
    pub(super) interfaces: Vec<String>,
    /// Interfaces that are not there, so that nothing is heard on them.
    pub(super) missing: Vec<String>,
}

/// What to do about a configured interface that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum MissingInterface {
    /// Refuse: at a start and at a reload an admin is there to be told.
    Refuse,
    /// Listen on the others: while the gateway runs, links come and go.
    Skip,
}

/// All that a listener is to know.
pub(super) struct ListenerSpec<'a> {
    /// Its name in the list of processes.
    pub(super) name: &'a str,
    /// Keys and clients; none where there are only doors.
    pub(super) sealed: Option<&'a GatewayConfig>,
    /// The classic doors.
    pub(super) doors: &'a [Door],
    /// What becomes of hits over IPv6 on doors.
    pub(super) ipv6: Ipv6,
    /// Every step at a door is told.
    pub(super) debug: bool,
    /// Our own addresses: whether sealed knocks, and whether doors, count there.
    pub(super) addresses: Vec<(IpAddr, bool, bool)>,
    /// Who it is to become, if not one of [`USERS`].
    pub(super) user: Option<&'a str>,
}

impl ListenerProcess {
    /// Starts a listener for `loaded` and waits until it has given up its rights and listens.
    ///
    /// # Errors
    /// Whatever it lacks: an interface, a right, a kernel feature.
    pub(super) fn start(
        loaded: &GatewayConfig,
        own: &[LocalAddress],
        absent: MissingInterface,
    ) -> Result<ListenerProcess, Fault> {
        let meant = interfaces::resolved_interfaces(&loaded.settings);
        let brief = ListenerSpec {
            name: "toctocd: listener",
            sealed: Some(loaded),
            doors: &loaded.settings.doors,
            ipv6: Ipv6::Counts,
            debug: false,
            addresses: addresses(&meant, own),
            user: loaded.settings.gateway.user.as_deref(),
        };
        let captures = captures(loaded, &meant, absent)?;
        let mut messages = captures.sockets;
        messages.push(ToListener::Raw4(raw::open_v4()?));
        messages.extend(raw::open_v6()?.map(ToListener::Raw6));
        let mut child = Self::spawn(&brief, messages)?;
        (child.meant, child.interfaces, child.missing) =
            (meant, captures.interfaces, captures.missing);
        Ok(child)
    }

    /// Starts a listener with these sockets and waits until it has given up its rights and listens.
    ///
    /// # Errors
    /// Whatever it lacks.
    pub(super) fn spawn(
        brief: &ListenerSpec<'_>,
        sockets: Vec<ToListener>,
    ) -> Result<ListenerProcess, Fault> {
        let user = user(brief)?;
        let (pipe, theirs) = gatekeeper_pipe::pair()?;
        let process = Command::new("/proc/self/exe")
            .arg0(brief.name)
            .arg(ROLE)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|e| {
                Fault::new(format!("the listener cannot be started: {e}"), "is /proc mounted?")
            })?;
        let rows = brief
            .sealed
            .iter()
            .flat_map(|loaded| &loaded.clients)
            .map(|client| client.id)
            .collect();
        let doors = brief.doors.to_vec();
        let (meant, interfaces, missing) = (Vec::new(), Vec::new(), Vec::new());
        let mut child = ListenerProcess {
            process,
            pipe,
            degraded: Vec::new(),
            rows,
            doors,
            meant,
            interfaces,
            missing,
        };
        child.set_up(brief, sockets, user).map_err(|broken| child.lost(&broken))?;
        let notes = child.wait_ready()?;
        // Its own word is not enough: one that is not confined is not used. It is killed as it is
        // dropped.
        confine::verify(child.process.id(), notes, user)?;
        child.degraded = notes.iter().map(|note| note.text().to_owned()).collect();
        Ok(child)
    }

    /// Our own addresses have changed.
    ///
    /// # Errors
    /// The pipe is of no use any more.
    pub(super) fn tell_addresses(&mut self, own: &[LocalAddress]) -> Result<(), PipeError> {
        self.tell_all(&addresses(&self.meant, own))
    }

    fn tell_all(&mut self, addresses: &[(IpAddr, bool, bool)]) -> Result<(), PipeError> {
        for (address, knock, door) in addresses.iter().copied() {
            self.pipe.send(ToListener::Address { address, knock, door })?;
        }
        self.pipe.send(ToListener::AddressesDone)
    }

    /// Tells it from every other that runs.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether the process has ended, and how, in words.
    pub(super) fn ended(&mut self) -> Option<String> {
        self.process.try_wait().ok().flatten().map(|status| status.to_string())
    }

    fn set_up(
        &mut self,
        brief: &ListenerSpec<'_>,
        sockets: Vec<ToListener>,
        user: Option<(u32, u32)>,
    ) -> Result<(), PipeError> {
        if let Some(loaded) = brief.sealed {
            self.tell_sealed(loaded)?;
        }
        self.tell(ToListener::Doors { ipv6: brief.ipv6, debug: brief.debug })?;
        for (index, door) in (0..).zip(brief.doors) {
            self.tell(ToListener::Door { index, spec: DoorSpec::from(door) })?;
        }
        self.tell_all(&brief.addresses)?;
        for socket in sockets {
            self.tell(socket)?;
        }
        self.tell(ToListener::Go { user })
    }

    fn tell_sealed(&mut self, loaded: &GatewayConfig) -> Result<(), PipeError> {
        let knock = &loaded.settings.knock;
        self.tell(ToListener::Gateway {
            realm: loaded.keys.realm.id(),
            gateway: loaded.keys.gateway,
            mask: loaded.keys.realm.mask().duplicate(),
            current: loaded.keys.secret.duplicate(),
            other: loaded.keys.previous.as_ref().map(|secret| secret.duplicate()),
            port: knock.port,
            burst: knock.burst,
            per_second: knock.per_second,
        })?;
        for (row, client) in (0..).zip(&loaded.clients) {
            let keys = loaded.keys.master.client_keys(client.id);
            self.tell(ToListener::Client { row, keys, fingerprint: client.fingerprint })?;
        }
        Ok(())
    }

    /// Sends, and waits for room: in set-up the listener has nothing to do but to read.
    fn tell(&mut self, message: ToListener) -> Result<(), PipeError> {
        self.pipe.send(message)?;
        if self.pipe.waiting() > gatekeeper_pipe::QUEUE / 2 {
            self.pipe.drain(PATIENCE)
        } else {
            Ok(())
        }
    }

    fn wait_ready(&mut self) -> Result<Limitations, Fault> {
        self.pipe.drain(PATIENCE).map_err(|broken| self.lost(&broken))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.pipe.receive() {
                Ok(Some(ToGatekeeper::Ready { degraded })) => {
                    return Ok(Limitations::from_bits(degraded));
                }
                Ok(Some(ToGatekeeper::Failed { step, errno })) => return Err(failure(step, errno)),
                Ok(Some(_)) => return Err(self.lost(&PipeError::Nonsense(Reject::Pipe))),
                Ok(None) => {}
                Err(broken) => return Err(self.lost(&broken)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Fault::new(
                    "the listener did not get ready in time",
                    "is this machine overloaded?",
                ));
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            // An interrupted wait is only a shorter one.
            let _ = poll(&mut [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)], timeout);
        }
    }

    /// The pipe broke before the listener was ready: says how it ended, if it did.
    fn lost(&mut self, broken: &PipeError) -> Fault {
        let end = self.process.kill().and_then(|()| self.process.wait());
        let how = end.map_or_else(|e| e.to_string(), |status| status.to_string());
        Fault::new(
            format!("the listener did not start: {broken:?}, {how}"),
            "its own words stand above, if it had any",
        )
    }
}

impl Drop for ListenerProcess {
    fn drop(&mut self) {
        // It is another user's: without CAP_KILL it cannot be ended, and must not be waited for. It
        // ends with the pipe.
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// What a listener that could not get ready says of it.
fn failure(step: u8, errno: i32) -> Fault {
    let unknown = || {
        Fault::new(
            "the listener could not get ready and does not say why",
            "is it the same program?",
        )
    };
    Failure::from_pipe(step, errno).map_or_else(unknown, Failure::fault)
}

/// Capture sockets as messages, with the interfaces that they are for.
struct Captures {
    sockets: Vec<ToListener>,
    interfaces: Vec<String>,
    missing: Vec<String>,
}

fn captures(
    loaded: &GatewayConfig,
    meant: &[String],
    absent: MissingInterface,
) -> Result<Captures, Fault> {
    let program = bpf::program(&wanted(loaded));
    let mut captures =
        Captures { sockets: Vec::new(), interfaces: Vec::new(), missing: Vec::new() };
    for name in meant {
        if name == DEFAULT_ROUTE && absent == MissingInterface::Refuse {
            return Err(interfaces::no_default_route());
        }
        match capture::open(name, &program) {
            Ok(socket) => {
                captures.sockets.push(ToListener::Capture(socket));
                captures.interfaces.push(name.clone());
            }
            Err(_) if absent == MissingInterface::Skip && capture::interface(name).is_err() => {
                captures.missing.push(name.clone())
            }
            Err(fault) => return Err(fault),
        }
    }
    if captures.sockets.is_empty() {
        let names = captures.missing.join(", ");
        return Err(Fault::new(
            format!("no interface to listen on: {names}"),
            "`ip link` shows what is there and up",
        ));
    }
    Ok(captures)
}

fn wanted(loaded: &GatewayConfig) -> bpf::FilterSpec {
    let knock_port = Some(loaded.settings.knock.port);
    bpf::FilterSpec { knock_port, steps: steps(&loaded.settings.doors), outgoing: false }
}

/// What the kernel must let through for `doors`.
pub(super) fn steps(doors: &[Door]) -> Vec<(Step, TcpFlags)> {
    let all = |door: &Door| {
        door.sequence
            .iter()
            .chain(&door.later_steps)
            .map(|step| (*step, door.flags))
            .collect::<Vec<_>>()
    };
    doors.iter().flat_map(all).collect()
}

/// Our own addresses as a listener is to know them: doors count on the interfaces that are
/// captured.
fn addresses(interfaces: &[String], own: &[LocalAddress]) -> Vec<(IpAddr, bool, bool)> {
    let any = interfaces.iter().any(|name| name == capture::ANY);
    own.iter().map(|one| (one.address, true, any || interfaces.contains(&one.interface))).collect()
}

/// User and group id that the listener is to become; none if we cannot become anybody: we are not
/// root, or serve only doors below Debian's unit for knockd, whose CapabilityBoundingSet= has no
/// CAP_SETUID. Where there are keys to lose, that is refused.
fn user(brief: &ListenerSpec<'_>) -> Result<Option<(u32, u32)>, Fault> {
    if !geteuid().is_root() || brief.sealed.is_none() && !may_change_user() {
        return Ok(None);
    }
    match brief.user {
        Some(name) => named_user(name).map(Some),
        None => Ok(USERS.iter().find_map(|name| find_user(name))),
    }
}

fn may_change_user() -> bool {
    let held = capctl::CapState::get_current();
    held.is_ok_and(|held| {
        [capctl::Cap::SETUID, capctl::Cap::SETGID].into_iter().all(|cap| held.effective.has(cap))
    })
}

/// User and group id of the user that the configuration names.
pub(super) fn named_user(name: &str) -> Result<(u32, u32), Fault> {
    find_user(name).ok_or_else(|| {
        Fault::new(
            format!("[gateway] user = \"{name}\": there is no such user"),
            format!("`useradd --system --no-create-home --shell /usr/sbin/nologin {name}`, or leave the key out"),
        )
    })
}

fn find_user(name: &str) -> Option<(u32, u32)> {
    User::from_name(name).ok().flatten().map(|user| (user.uid.as_raw(), user.gid.as_raw()))
}
