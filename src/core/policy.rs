//! `Fresh` -> `Admission`: who may have what, within all limits. That nothing opens before its mark
//! is durable is left to `commit`, the list of live grants to `grants`, what was used before to
//! `replay`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::address::{AddressScope, reach};
use super::authentic::Authentic;
use super::door::Door;
use super::grants::{ActiveGrant, GRANTS, GrantEnd, GrantKey, Grants, Holder};
use super::knock::{KnockKind, Ports, Status};
use super::prefix::Span;
use super::replay::{Fresh, Refused, Replay, ReplayDecision};
use super::reply::{PendingReply, Reply};
use super::service::{AddressProof, Client, Service, ServiceCommands, SourceRule};
use super::types::{ClientId, Now, Reject, SECOND, SERVICE_PORTS, ServiceName, Source};

mod commit;
pub use commit::{Admission, Closing, Committed, Decision, Grant, commit, commit_with};

/// The rules in force: replaced as a whole at a reload.
#[derive(Debug)]
pub struct Policy {
    services: BTreeMap<ServiceName, Service>,
    clients: BTreeMap<ClientId, Client>,
    max_grants: u32,
    own: BTreeSet<Source>,
    /// Which doors grant which services.
    doors: BTreeSet<(Holder, ServiceName)>,
}

/// What a classic door grants. The only thing that [`Grants::open_for_door`] takes.
///
/// No mark has to be durable before it: a classic sequence may be repeated, and a one-time sequence
/// was used up before. A record that is lost shuts the door earlier, at a restart.
pub struct DoorGrant {
    live: ActiveGrant,
}

impl DoorGrant {
    pub(super) fn into_live(self) -> ActiveGrant {
        self.live
    }
}

impl Policy {
    /// `max_grants`: how many one client may have at once. `own`: our addresses, which are never
    /// granted.
    pub fn new(
        services: Vec<Service>,
        clients: Vec<Client>,
        max_grants: u32,
        own: impl IntoIterator<Item = Source>,
    ) -> Self {
        Self {
            services: services.into_iter().map(|service| (service.name, service)).collect(),
            clients: clients.into_iter().map(|client| (client.id, client)).collect(),
            max_grants,
            own: own.into_iter().collect(),
            doors: BTreeSet::new(),
        }
    }

    /// With these doors, as far as they grant services: what was granted through another one must
    /// end.
    pub fn with_doors(self, doors: &[Door]) -> Self {
        let granting = |door: &Door| Some((Holder::door(&door.name), door.service?));
        Self { doors: doors.iter().filter_map(granting).collect(), ..self }
    }

    /// Our addresses have changed.
    pub fn set_own(&mut self, own: impl IntoIterator<Item = Source>) {
        self.own = own.into_iter().collect();
    }

    /// An enrolled client, for `Authentic::verify`. An expired one is as if unknown.
    pub fn client(&self, now: Now, id: ClientId) -> Option<&Client> {
        let live =
            |client: &&Client| client.expires.is_none_or(|expires| now.wall.0 / SECOND < expires);
        self.clients.get(&id).filter(live)
    }

    /// The commands that open this service, if it is one of those.
    pub fn commands(&self, service: ServiceName) -> Option<&ServiceCommands> {
        self.services.get(&service)?.commands.as_ref()
    }

    /// Keeps only these clients; the others are as if unknown from now on. For revocations, which
    /// must not wait until all the rest of a configuration is sound.
    pub fn keep_clients(&mut self, keep: impl Fn(ClientId) -> bool) {
        self.clients.retain(|id, _| keep(*id));
    }

    /// How a grant must end under these rules, after a reload; `None` if it may go on. Revoked: its
    /// holder may have none for that service, or not for that address, any more. Changed: not for
    /// those ports, of that form or for so long.
    pub fn must_end(&self, now: Now, live: &ActiveGrant) -> Option<GrantEnd> {
        let Some(service) = self.services.get(&live.key.service) else {
            return Some(GrantEnd::Revoked);
        };
        let most = match live.key.holder {
            Holder::Client(id) => {
                let may = |client: &&Client| client.services.contains(&service.name);
                let Some(client) = self.client(now, id).filter(may) else {
                    return Some(GrantEnd::Revoked);
                };
                if !service.source.admits(live.basis, live.key.source, live.key.span) {
                    return Some(GrantEnd::Revoked);
                }
                most_seconds(live.opened, client, service)
            }
            Holder::Door(_) if !self.doors.contains(&(live.key.holder, service.name)) => {
                return Some(GrantEnd::Revoked);
            }
            Holder::Door(_) => service.max_seconds,
        };
        let same = live.ports == ports(service) && live.form == service.form;
        let same = same && live.seconds <= most && live.key.span <= service.span;
        (!same).then_some(GrantEnd::Changed)
    }

    /// The whole way of an authentic knock in the one order that is right: used before, address,
    /// time, permission. `entropy` must be fresh and secret: it may become a challenge.
    pub fn decide(
        &self,
        now: Now,
        authentic: Authentic,
        replay: &mut Replay,
        grants: &mut Grants,
        entropy: [u8; 16],
    ) -> Decision {
        let Some(client) = self.client(now, authentic.client()) else {
            return Decision::Refuse(Refused { reject: Reject::Policy, alarm: None });
        };
        let service = self.services.get(&authentic.request().service);
        if let Err(refused) = replay.reject_used(&authentic) {
            return Decision::Refuse(refused);
        }
        if !self.address_fits(&authentic, service) {
            return replay
                .wrong_address(now, authentic)
                .map_or_else(Decision::Refuse, Decision::Tell);
        }
        let demanded = service.is_some_and(|service| service.challenge);
        match replay.check(now, authentic, demanded, entropy) {
            ReplayDecision::Refused(refused) => Decision::Refuse(refused),
            ReplayDecision::Told(told) => Decision::Tell(told),
            ReplayDecision::Fresh(fresh) => self.admit(now, client, fresh, grants),
        }
    }

    /// What the knocker `source`, who completed the sequence of `door`, is granted, if that door
    /// grants a service at all. Only an address that could be granted to a client too: a forged
    /// sequence must not open anything for ourselves or for a mapped form.
    pub fn through_door(
        &self,
        now: Now,
        door: &Door,
        source: IpAddr,
        grants: &Grants,
    ) -> Result<DoorGrant, Status> {
        let service =
            door.service.and_then(|name| self.services.get(&name)).ok_or(Status::Denied)?;
        // What is not journalled opens nothing; the configuration refuses such a door.
        if service.commands.is_some() {
            return Err(Status::Denied);
        }
        let canonical = Source::new(source);
        if canonical.ip() != source || !self.grantable(canonical) {
            return Err(Status::Address);
        }
        if service
            .forward
            .as_ref()
            .is_some_and(|forward| forward.target(source.is_ipv6()).is_none())
        {
            return Err(Status::Denied);
        }
        // A sequence that anybody may have forged is for one address, whatever the service would
        // give to a client.
        let (holder, span) = (Holder::door(&door.name), Span::Host);
        let key =
            GrantKey { holder, service: service.name, source: canonical, source_port: 0, span };
        let others = OtherGrants::of(&key, grants);
        if others.all >= GRANTS || !below(others.of_service, service.max_grants) {
            return Err(Status::Full);
        }
        let already = grants
            .of(&key)
            .filter(|live| live.form == service.form)
            .map_or(0, |live| live.seconds_left(now));
        let seconds = service.seconds.max(already);
        Ok(DoorGrant { live: live(key, service, now, seconds, AddressProof::Seen) })
    }

    /// The address rule. Only an opening grants an address; what names no known service is refused
    /// by policy later.
    fn address_fits(&self, authentic: &Authentic, service: Option<&Service>) -> bool {
        if authentic.request().kind != KnockKind::Open {
            return true;
        }
        let rule = service.map_or(&SourceRule::Bound, |service| &service.source);
        let address = authentic.address();
        rule.admits(basis(authentic), address, Span::Host) && self.grantable(address)
    }

    /// Whether an address can be a peer's that reaches us from elsewhere.
    fn grantable(&self, source: Source) -> bool {
        matches!(reach(source.ip()), AddressScope::Global | AddressScope::Private)
            && !embeds_ipv4(source)
            && !self.own.contains(&source)
    }

    fn admit(&self, now: Now, client: &Client, fresh: Fresh, grants: &mut Grants) -> Decision {
        let tell = |fresh: Fresh, status, reject| {
            let answer = Reply::new(&fresh.authentic, status, fresh.challenge);
            Decision::Tell(PendingReply { records: fresh.records, answer, reject })
        };
        let request = *fresh.authentic.request();
        match (request.kind, self.services.get(&request.service)) {
            (KnockKind::Probe, _) => tell(fresh, Status::Observed, None),
            (_, Some(service)) if client.services.contains(&service.name) => match request.kind {
                KnockKind::Close => Decision::Close(close(fresh, grants)),
                _ => match self.grant(now, client, service, &fresh.authentic, grants) {
                    Ok(live) => Decision::Admit(Admission::new(fresh, live, grants)),
                    Err(status) => tell(fresh, status, Some(Reject::Policy)),
                },
            },
            _ => tell(fresh, Status::Denied, Some(Reject::Policy)),
        }
    }

    /// The grant that a request amounts to, within all limits.
    fn grant(
        &self,
        now: Now,
        client: &Client,
        service: &Service,
        authentic: &Authentic,
        grants: &Grants,
    ) -> Result<ActiveGrant, Status> {
        let request = authentic.request();
        // A grant that leads nowhere would be one for this machine's own port.
        let v6 = authentic.address().ip().is_ipv6();
        if service.forward.as_ref().is_some_and(|forward| forward.target(v6).is_none()) {
            return Err(Status::Denied);
        }
        // Commands know of no port: they would open to the whole address.
        if service.commands.is_some() && request.source_port != 0 {
            return Err(Status::Denied);
        }
        // Who knows the port that he will come from knows his address too: then the whole net is
        // more than is needed.
        let span = match (v6, request.source_port) {
            (true, 0) => service.span,
            _ => Span::Host,
        };
        let key = GrantKey {
            holder: Holder::Client(client.id),
            service: service.name,
            source: span.of(authentic.address()),
            source_port: request.source_port,
            span,
        };
        self.has_room(service, &key, grants)?;
        let asked = if request.seconds == 0 { service.seconds } else { request.seconds };
        let most = most_seconds(now, client, service);
        let already = grants
            .of(&key)
            .filter(|live| live.form == service.form)
            .map_or(0, |live| live.seconds_left(now));
        let seconds = asked.min(most).max(already.min(most)).max(1);
        Ok(live(key, service, now, seconds, basis(authentic)))
    }

    fn has_room(&self, service: &Service, key: &GrantKey, grants: &Grants) -> Result<(), Status> {
        let others = OtherGrants::of(key, grants);
        let room = others.all < GRANTS
            && below(others.of_holder, self.max_grants)
            && below(others.of_service, service.max_grants);
        if room { Ok(()) } else { Err(Status::Full) }
    }
}

/// How many grants there are besides one.
#[derive(Default)]
struct OtherGrants {
    all: usize,
    of_holder: usize,
    of_service: usize,
}

impl OtherGrants {
    fn of(key: &GrantKey, grants: &Grants) -> OtherGrants {
        let mut others = OtherGrants::default();
        for other in grants.keys().filter(|other| *other != key) {
            others.all += 1;
            others.of_holder += usize::from(other.holder == key.holder);
            others.of_service += usize::from(other.service == key.service);
        }
        others
    }
}

fn below(count: usize, limit: u32) -> bool {
    u32::try_from(count).is_ok_and(|count| count < limit)
}

/// The sender's grants for the service; only those for one address or from one source port if it
/// names one.
fn close(fresh: Fresh, grants: &Grants) -> Closing {
    let (holder, request) = (Holder::Client(fresh.authentic.client()), fresh.authentic.request());
    let keys = grants.keys_to_close(|key| {
        key.holder == holder
            && key.service == request.service
            && request.address.is_none_or(|address| key.span.of(address) == key.source)
            && (request.source_port == 0 || request.source_port == key.source_port)
    });
    Closing::new(fresh, keys)
}

/// The longest grant that this client may have from then on.
fn most_seconds(opened: Now, client: &Client, service: &Service) -> u32 {
    let expiry =
        client.expires.map_or(u64::MAX, |expires| expires.saturating_sub(opened.wall.0 / SECOND));
    let most = client.max_seconds.unwrap_or(u32::MAX).min(service.max_seconds);
    most.min(u32::try_from(expiry).unwrap_or(u32::MAX))
}

fn basis(authentic: &Authentic) -> AddressProof {
    match authentic.request().address {
        None => AddressProof::Seen,
        Some(named) if named == authentic.source() => AddressProof::Both,
        Some(_) => AddressProof::Signed,
    }
}

fn live(
    key: GrantKey,
    service: &Service,
    opened: Now,
    seconds: u32,
    basis: AddressProof,
) -> ActiveGrant {
    ActiveGrant {
        key,
        form: service.form,
        ports: ports(service),
        opened,
        seconds,
        cut: service.cut,
        basis,
    }
}

fn ports(service: &Service) -> Ports {
    let mut ports = [None; SERVICE_PORTS];
    for (slot, port) in ports.iter_mut().zip(&service.ports) {
        *slot = Some(*port);
    }
    ports
}

/// IPv6 forms that carry an IPv4 address: whoever may have the one could otherwise ask for the
/// other.
fn embeds_ipv4(source: Source) -> bool {
    let std::net::IpAddr::V6(v6) = source.ip() else { return false };
    let [a, b, ..] = v6.segments();
    // 6to4, Teredo. NAT64, IPv4-compatible and IPv4-translated forms lie outside of 2000::/3 and
    // have no reach.
    a == 0x2002 || (a == 0x2001 && b == 0)
}

#[cfg(test)]
mod tests;
