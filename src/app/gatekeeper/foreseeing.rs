//! What a knock would get now, for `toctocd explain`: the policy in force decides, and nothing
//! changes. See `app::explain` for the command.

use std::path::Path;
use std::sync::Arc;

use super::Gatekeeper;
use super::denials::limit_words;
use super::in_force::{InForce, window};
use super::requests::challenge_text;
use super::rights::Rights;
use super::serve;
use crate::app::foreseen::{Foreseen, ForeseenGrant, ForeseenRefusal, Limit, Obstacle};
use crate::app::prepare;
use crate::core::grant::{ActiveGrant, Holder};
use crate::core::grants::{GrantKey, Grants};
use crate::core::knock::Status;
use crate::core::policy::{Asked, Full, NeverGranted, Policy, Refusal};
use crate::core::prefix::Span;
use crate::core::service::{AddressProof, GrantKind, Service};
use crate::core::types::{ClientId, Fault, FaultKind, Now, SECOND, ServiceName, Source, Wall};
use crate::edge::clock;
use crate::edge::control::{Asker, Question};
use crate::edge::log::date_time;

/// All that the answer depends on.
struct Foresight<'a> {
    in_force: &'a InForce,
    policy: &'a Policy,
    grants: &'a Grants,
    now: Now,
    /// The latest time that the clock showed.
    latest: Wall,
}

/// What policy decides, and for which service.
struct Outcome {
    holder: Holder,
    service: ServiceName,
    grant: Result<ActiveGrant, Refusal>,
}

/// The answer without a running gateway: what one would decide that starts with these files and no
/// live grant.
///
/// # Errors
/// The files cannot be read, or what is asked about is unknown.
pub fn foresee_without_gateway(config: &Path, question: &Question) -> Result<Foreseen, Fault> {
    let prepared = Arc::new(prepare::prepare(config, None)?);
    let now = clock::now();
    let in_force = InForce::new(config, prepared, serve::network()?, now, Rights::All);
    let (policy, grants) = (in_force.policy(), Grants::default());
    let foresight =
        Foresight { in_force: &in_force, policy: &policy, grants: &grants, now, latest: now.wall };
    let mut foreseen = foresight.answer(question)?;
    foreseen.obstacles.push(Obstacle {
        what: "no gateway is running, so nobody hears a knock".to_owned(),
        remedy: "start it: `systemctl start toctocd`, or `toctocd run`".to_owned(),
        status: "none".to_owned(),
    });
    Ok(foreseen)
}

impl Gatekeeper {
    /// The answer of the rules and grants in force.
    pub(super) fn foresee(&mut self, now: Now, question: &Question) -> Result<Foreseen, Fault> {
        self.end_spent(now);
        let challenges = self.replay.challenge_reason(now);
        let foresight = Foresight {
            in_force: &self.in_force,
            policy: &self.policy,
            grants: &self.grants,
            now,
            latest: self.replay.latest(now),
        };
        let mut foreseen = foresight.answer(question)?;
        if let Some(reason) = challenges {
            foreseen.clock = challenge_text(reason);
        }
        foreseen.obstacles = self.obstacles();
        Ok(foreseen)
    }

    /// What stops every knock now.
    fn obstacles(&self) -> Vec<Obstacle> {
        let mut all = Vec::new();
        let mut add = |what: &str, remedy: &str, status: &str| {
            let [what, remedy, status] = [what, remedy, status].map(str::to_owned);
            all.push(Obstacle { what, remedy, status });
        };
        if self.listeners.at_work().is_none() {
            add("no listener is running: knocks are not received", "see the log", "none");
        }
        if !self.journal.is_writable() {
            add(
                "the journal cannot be written, and nothing opens without it",
                "see the log",
                "none",
            );
        }
        if self.guard.is_off() {
            add(
                "the guard is OFF, so nothing is granted, and what it guards is open",
                "`toctocd guard on` turns it on",
                "trouble",
            );
        }
        all
    }
}

impl Foresight<'_> {
    fn answer(&self, question: &Question) -> Result<Foreseen, Fault> {
        let Outcome { holder, service, grant } = self.outcome(question)?;
        let settings = self.in_force.settings();
        let configured = self.in_force.service(service);
        let key = match &grant {
            Ok(grant) => grant.key,
            Err(_) => key(holder, service, question),
        };
        let window = window(settings);
        let mut foreseen = Foreseen {
            holder: self.in_force.holder(holder),
            service: service.to_string(),
            services: self.services(holder),
            grant: None,
            refusal: None,
            limits: self.limits(&key, configured),
            clock: "sure".to_owned(),
            window: [window.max_age, window.max_ahead],
            obstacles: Vec::new(),
        };
        match grant {
            Ok(grant) => {
                foreseen.grant = Some(ForeseenGrant {
                    address: grant.key.who(),
                    seconds: grant.seconds,
                    form: if grant.form == GrantKind::Once { "once" } else { "time" }.to_owned(),
                    ports: configured.map(|one| one.ports.texts()).unwrap_or_default(),
                });
            }
            Err(refusal) => foreseen.refusal = Some(self.words(refusal, &key, configured)),
        }
        Ok(foreseen)
    }

    fn outcome(&self, question: &Question) -> Result<Outcome, Fault> {
        let (now, grants) = (self.now, self.grants);
        match &question.asker {
            Asker::Client(id) => {
                let id = ClientId(*id);
                let asked = asked(question)?;
                let grant = self.policy.foresee(now, self.latest, id, &asked, grants);
                Ok(Outcome { holder: Holder::Client(id), service: asked.service, grant })
            }
            Asker::Door(name) => {
                let doors = &self.in_force.settings().doors;
                let unknown = || {
                    let what = format!("no door is called `{name}`");
                    Fault::new(what, "`toctocd check --print` shows all of them")
                        .of(FaultKind::Name)
                };
                let door = doors.iter().find(|door| door.name == *name).ok_or_else(unknown)?;
                let Some(service) = door.service else {
                    return Err(Fault::new(
                        format!(
                            "door [{name}] at {} runs commands for whoever completes its sequence: no \
                             policy decides",
                            door.place
                        ),
                        "give it a `service` in place of commands if policy should",
                    ));
                };
                let grant = self.policy.foresee_door(now, door, question.from, grants);
                Ok(Outcome { holder: Holder::door(name), service, grant })
            }
        }
    }

    fn services(&self, holder: Holder) -> Vec<String> {
        let Holder::Client(id) = holder else { return Vec::new() };
        let client = self.in_force.clients().get(id);
        client.iter().flat_map(|one| one.services.iter()).map(ToString::to_string).collect()
    }

    fn limits(&self, key: &GrantKey, service: Option<&Service>) -> Vec<Limit> {
        let beside = self.grants.beside(key);
        let mut limits = Vec::new();
        if let Holder::Client(_) = key.holder {
            let most = self.most_grants_of(key.holder);
            let of = self.in_force.holder(key.holder);
            limits.push(Limit { of, grants: beside.of_holder, most });
        }
        if let Some(service) = service {
            let of = service.name.to_string();
            limits.push(Limit { of, grants: beside.of_service, most: service.max_grants });
        }
        limits
    }

    /// The reason of a refusal for an admin, with what changes it.
    fn words(
        &self, refusal: Refusal, key: &GrantKey, service: Option<&Service>,
    ) -> ForeseenRefusal {
        let status = match (refusal, refusal.status()) {
            (Refusal::UnknownClient, _) => "none",
            (_, Status::Address) => "address",
            (_, Status::Full) => "full",
            _ => "denied",
        };
        let name = key.service;
        let (why, remedy) = match refusal {
            Refusal::UnknownClient => self.unknown_client(key.holder),
            Refusal::UnknownService => (
                format!("service {name} is not configured"),
                format!("write a section [service.{name}], then `toctocd reload`"),
            ),
            Refusal::NotAllowed => (
                format!("the client's line does not name {name} in `services`"),
                format!("add {name} to `services=\"...\"` of its line, then `toctocd reload`"),
            ),
            Refusal::Source => (
                format!(
                    "`source` of service {name} does not admit {}, which the knock names and does not \
                     come from",
                    key.source
                ),
                format!("list that prefix in `source` of [service.{name}], or knock from there"),
            ),
            Refusal::Address(why) => never_granted(why, key.source),
            Refusal::NoTarget => {
                let v6 = key.source.ip().is_ipv6();
                let family = if v6 { "IPv6" } else { "IPv4" };
                (
                    format!("`forward` of service {name} has no inner host over {family}"),
                    format!("add one, or knock over {}", if v6 { "IPv4" } else { "IPv6" }),
                )
            }
            Refusal::Limited(limited) => {
                let why = limit_words(self.policy, limited, key.holder, key.source);
                (why, "change that option of its line, then `toctocd reload`".to_owned())
            }
            Refusal::PortOfCommands => (
                format!("service {name} runs commands, which know of no source port"),
                "knock without --source-port".to_owned(),
            ),
            Refusal::Full(full) => self.full(full, key.holder, service),
        };
        ForeseenRefusal { status: status.to_owned(), why, remedy }
    }

    /// Why policy does not know a client that the files may name.
    fn unknown_client(&self, holder: Holder) -> (String, String) {
        let Holder::Client(id) = holder else { return Default::default() };
        let reload = "`toctocd reload`, if the clients file names it".to_owned();
        let Some(client) = self.policy.clients().get(id) else {
            return ("the gateway does not know this client".to_owned(), reload);
        };
        if let Some(expires) = client.expires.filter(|end| *end <= self.latest.0 / SECOND) {
            let ended = date_time(Wall(expires.saturating_mul(SECOND)));
            return (
                format!("the enrolment of {} ended at {ended}", client.name),
                "write a later `expires` in its line, then `toctocd reload`".to_owned(),
            );
        }
        match self.policy.clients().key_fault(id) {
            Some(Fault { what, remedy, .. }) => (format!("its key proves nothing: {what}"), remedy),
            None => (format!("{} is only invited, and has not joined", client.name), reload),
        }
    }

    /// The most grants of a client: its own limit, or that of all.
    fn most_grants_of(&self, holder: Holder) -> u32 {
        let client = match holder {
            Holder::Client(id) => self.policy.clients().get(id),
            Holder::Door(_) => None,
        };
        match client {
            Some(client) => self.policy.most_grants(client),
            None => self.in_force.settings().knock.max_grants,
        }
    }

    fn full(&self, full: Full, holder: Holder, service: Option<&Service>) -> (String, String) {
        let most = self.most_grants_of(holder);
        let name = service.map(|service| service.name.to_string()).unwrap_or_default();
        match full {
            Full::Holder => (
                format!("the client has {most} grants, as many as one may have"),
                "wait until one ends, close one, or raise `max_grants` in [knock], or `max-grants` of its \
                 line".to_owned(),
            ),
            Full::Service => (
                format!("service {name} has as many grants as it may have"),
                format!("wait until one ends, or raise `max_grants` in [service.{name}]"),
            ),
            Full::Share => (
                format!("what is left of service {name} is for clients that have no grant of it"),
                format!("wait until one ends, or raise `max_grants` in [service.{name}]"),
            ),
        }
    }
}

fn asked(question: &Question) -> Result<Asked, Fault> {
    let text = question.service.as_deref().unwrap_or_default();
    let service = ServiceName::new(text)
        .ok_or_else(|| Fault::new(format!("`{text}` is no service's name"), "use a-z 0-9 - _"))?;
    let source = Source::new(question.from);
    let address = question.named.map_or(source, Source::new);
    let proof = if address == source { AddressProof::Both } else { AddressProof::Signed };
    Ok(Asked { service, address, proof, source_port: 0, seconds: question.seconds })
}

/// The key of a grant that is refused, for its limits and its words.
fn key(holder: Holder, service: ServiceName, question: &Question) -> GrantKey {
    let source = Source::new(question.named.unwrap_or(question.from));
    GrantKey { holder, service, source, source_port: 0, span: Span::HOST }
}

fn never_granted(why: NeverGranted, source: Source) -> (String, String) {
    let listed = "if it belongs to one client all the same, list it in `also_grant` of [knock] \
                  (docs/firewall.md)";
    match why {
        NeverGranted::NoPeer => (
            format!("{source} is the address of no machine elsewhere"),
            "ask about the address that the knock comes from".to_owned(),
        ),
        NeverGranted::Embedded => (
            format!("{source} carries an IPv4 address, so it may be somebody else's"),
            "knock over IPv4, or from a native IPv6 address".to_owned(),
        ),
        NeverGranted::Own => (
            format!("{source} is this machine's own, or stands for a whole network"),
            "a device in front of this machine may replace addresses: docs/firewall.md".to_owned(),
        ),
        NeverGranted::Shared => (
            format!(
                "{source} is a router's, or one of `addresses` that another machine has: everybody may \
                 come from there"
            ),
            listed.to_owned(),
        ),
        NeverGranted::Elsewhere => (
            format!(
                "{source} is private and in no network of this machine: a device in front gives it to \
                 everybody"
            ),
            listed.to_owned(),
        ),
    }
}
