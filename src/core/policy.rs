//! `Fresh` -> `Admission`: who may have what, within all limits. See `commit` for the step after
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::address::{AddressScope, reach};
use super::authentic::{Authentic, AuthenticEnrolment};
use super::clients::ClientTable;
use super::door::Door;
use super::grant::{ActiveGrant, GrantEnd, GrantKey, Holder};
use super::grants::Grants;
use super::knock::{KnockKind, Status, port_entries};
use super::limits::Limited;
use super::prefix::{Prefix, Span};
use super::replay::{Fresh, Refused, Replay, ReplayDecision};
use super::reply::{PendingReply, Reply};
use super::service::{AddressProof, Client, Service, ServiceCommands, SourceRule};
use super::types::{ClientId, Now, Reject, SECOND, ServiceName, Source, Wall};
use crate::core::bytes::saturated_u32;

// `grants` takes the proofs that are made there, so it imports that file and not this one.
pub(super) mod commit;
mod refusal;
#[cfg(test)]
mod tests;

pub use commit::{
    Admission, Applicant, Candidate, Closing, Committed, Decision, DoorGrant, Grant, commit,
    commit_with,
};
pub use refusal::{Full, NeverGranted, Refusal};

/// What one holder may have of a service, in times of what is free then: alone seven eighths.
const SHARE: u32 = 7;

/// What somebody asks for, as far as policy looks at it. It proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub service: ServiceName,
    /// The address that the grant is for, and the evidence that it is theirs.
    pub address: Source,
    pub proof: AddressProof,
    /// 0 for every source port.
    pub source_port: u16,
    /// 0 for the service's own time.
    pub seconds: u32,
}

impl Asked {
    fn by(authentic: &Authentic) -> Asked {
        let request = authentic.request();
        Asked {
            service: request.service,
            address: authentic.address(),
            proof: address_proof(authentic),
            source_port: request.source_port,
            seconds: request.seconds,
        }
    }
}

/// The rules in force: replaced as a whole at a reload.
#[derive(Debug)]
pub struct Policy {
    services: BTreeMap<ServiceName, Service>,
    clients: ClientTable,
    max_grants: u32,
    own: BTreeSet<Source>,
    /// True for IPv4 and for IPv6 if this machine has a public address.
    has_public: [bool; 2],
    /// Private networks that are not behind a device in front of this machine.
    private: BTreeSet<Prefix>,
    /// Addresses that a device in front of this machine may give to everybody's packets.
    shared: BTreeSet<Source>,
    also_grant: Vec<Prefix>,
    /// Pairs of a door and the service that it grants.
    doors: BTreeSet<(Holder, ServiceName)>,
}

impl Policy {
    /// `max_grants`: how many one client may have at once. `own`: the gateway's addresses, and
    /// those that mean all machines of one of its networks; none of them is ever granted.
    pub fn new(
        services: Vec<Service>, clients: impl Into<ClientTable>, max_grants: u32,
        own: impl IntoIterator<Item = Source>,
    ) -> Self {
        let mut policy = Self {
            services: services.into_iter().map(|service| (service.name, service)).collect(),
            clients: clients.into(),
            max_grants,
            own: BTreeSet::new(),
            has_public: [false; 2],
            private: BTreeSet::new(),
            shared: BTreeSet::new(),
            also_grant: Vec::new(),
            doors: BTreeSet::new(),
        };
        policy.set_own(own);
        policy
    }

    /// The same rules with these doors. Only what one of them grants may go on after a reload.
    pub fn with_doors(mut self, doors: &[Door]) -> Self {
        for door in doors {
            if let Some(service) = door.service {
                self.doors.insert((Holder::door(&door.name), service));
            }
        }
        self
    }

    /// The same rules, but addresses in these prefixes are granted even if many people may share
    /// them.
    pub fn with_also_granted(mut self, prefixes: &[Prefix]) -> Self {
        self.also_grant = prefixes.to_vec();
        self
    }

    pub fn set_own(&mut self, own: impl IntoIterator<Item = Source>) {
        self.own = own.into_iter().collect();
        self.has_public = [false, true].map(|v6| {
            let mut own = self.own.iter().filter(|own| own.ip().is_ipv6() == v6);
            own.any(|own| reach(own.ip()) == AddressScope::Global)
        });
    }

    /// `private`: the private networks of this machine, and those behind them.
    pub fn set_private(&mut self, private: BTreeSet<Prefix>) {
        self.private = private;
    }

    /// `shared`: the routers of this machine, and its public addresses that are on another one.
    pub fn set_shared(&mut self, shared: impl IntoIterator<Item = Source>) {
        self.shared = shared.into_iter().collect();
    }

    /// An enrolled client, for `Authentic::verify`. An expired client is unknown: by the latest
    /// time that the clock showed ([`Replay::latest`]), so that setting it back revives nobody. So
    /// is one whose key proves nothing.
    pub fn client(&self, latest: Wall, id: ClientId) -> Option<&Client> {
        // Not for an invitation, whatever its key is.
        self.clients.get(id).filter(|client| client.invited_until.is_none())?;
        let client = self.clients.with_sound_key(id)?;
        match client.expires {
            Some(expires) if latest.0 / SECOND >= expires => None,
            _ => Some(client),
        }
    }

    /// True if this is the id of an invitation that can still be used. `latest` as for
    /// [`Policy::client`].
    pub fn is_invitation(&self, latest: Wall, id: ClientId) -> bool {
        let until = self.clients.get(id).and_then(|row| row.invited_until);
        until.is_some_and(|until| latest.0 / SECOND < until)
    }

    /// True if a client has expired after `from`, up to `to`.
    pub fn expires_between(&self, from: Wall, to: Wall) -> bool {
        self.clients.expires_between(from.0 / SECOND + 1, to.0 / SECOND)
    }

    pub fn commands(&self, service: ServiceName) -> Option<&ServiceCommands> {
        self.services.get(&service)?.commands.as_ref()
    }

    pub fn clients(&self) -> &ClientTable {
        &self.clients
    }

    /// Replaces the clients: who is not among them is unknown from now on. They need not wait until
    /// the rest of a configuration is sound. A service that a client names and that is unknown here
    /// is denied to it.
    pub fn set_clients(&mut self, clients: ClientTable) {
        self.clients = clients;
    }

    /// The way in which a grant must end under these rules, after a reload; `None` if it may go on.
    /// `latest` is for [`Policy::client`].
    pub fn must_end(&self, latest: Wall, grant: &ActiveGrant) -> Option<GrantEnd> {
        let Some((service, max_seconds)) = self.still_allowed(latest, grant) else {
            return Some(GrantEnd::Revoked);
        };
        let GrantKey { source, span, .. } = grant.key;
        let same = grant.ports == service.ports.digest()
            && grant.form == service.form
            && grant.seconds <= max_seconds
            && (span == Span::HOST || span == self.span_for(service, source));
        if same { None } else { Some(GrantEnd::Changed) }
    }

    /// The number of live grants that this client must lose, if it has so many now.
    pub fn beyond(&self, holder: Holder, live: u32) -> u32 {
        let Holder::Client(id) = holder else { return 0 };
        let limit = self.clients.get(id).and_then(|client| client.limits().max_grants);
        limit.map_or(0, |limit| live.saturating_sub(limit))
    }

    /// The service of a grant and the most seconds that it may last, if its holder may still have
    /// a grant for that service and that address.
    fn still_allowed(&self, latest: Wall, grant: &ActiveGrant) -> Option<(&Service, u32)> {
        let GrantKey { holder, service, source, span, .. } = grant.key;
        let service = self.services.get(&service)?;
        match holder {
            Holder::Client(id) => {
                let client = self.client(latest, id)?;
                let allowed = client.services.contains(&service.name)
                    && service.source.admits(grant.proof, source, span)
                    && client.limits().admit(source, span)
                    && self.may_keep(source, span);
                // Beyond its hours a grant ends, and its connections go on.
                let most = max_seconds(grant.opened.wall, client, service).unwrap_or(0);
                allowed.then_some((service, most))
            }
            Holder::Door(_) => {
                let allowed =
                    self.doors.contains(&(holder, service.name)) && self.may_keep(source, span);
                allowed.then_some((service, service.max_seconds))
            }
        }
    }

    /// Decides on an authentic knock. The order matters: used before, address, time, permission.
    /// `entropy` must be fresh and secret: it may become a challenge.
    pub fn decide(
        &self, now: Now, authentic: Authentic, replay: &mut Replay, grants: &mut Grants,
        entropy: [u8; 16],
    ) -> Decision {
        let latest = replay.latest(now);
        let Some(client) = self.client(latest, authentic.client()) else {
            return Decision::Refuse(Refused { reject: Reject::Policy, alarm: None });
        };
        if let Err(refused) = replay.reject_used(&authentic) {
            return Decision::Refuse(refused);
        }
        let asked = Asked::by(&authentic);
        let service = self.services.get(&asked.service);
        // Only an opening grants an address.
        let is_opening = authentic.request().kind == KnockKind::Open;
        if is_opening && self.address_refusal(&asked, service).is_some() {
            return match replay.wrong_address(now, authentic) {
                Ok(reply) => Decision::Tell(reply),
                Err(refused) => Decision::Refuse(refused),
            };
        }
        let challenge_required = service.is_some_and(|service| service.challenge);
        match replay.check(now, authentic, challenge_required, entropy) {
            ReplayDecision::Refused(refused) => Decision::Refuse(refused),
            ReplayDecision::Reply(reply) => Decision::Tell(reply),
            ReplayDecision::Fresh(fresh) => self.admit(now, latest, client, fresh, grants),
        }
    }

    /// Decides whether somebody who asks to join does so now: used before, and time. What comes of
    /// it, the file `joined` decides. `entropy` as for [`Policy::decide`].
    pub fn decide_enrolment(
        &self, now: Now, enrolment: AuthenticEnrolment, replay: &mut Replay, entropy: [u8; 16],
    ) -> Decision {
        let (authentic, key) = enrolment.into_parts();
        match replay.check(now, authentic, false, entropy) {
            ReplayDecision::Refused(refused) => Decision::Refuse(refused),
            ReplayDecision::Reply(reply) => Decision::Tell(reply),
            ReplayDecision::Fresh(fresh) => Decision::Join(Candidate::new(fresh, key)),
        }
    }

    /// The grant that a client would get now if it asked for this by a sound knock of the right
    /// time: the steps of [`Policy::decide`], and nothing changes. `latest` as for
    /// [`Policy::client`].
    ///
    /// # Errors
    /// The reason why it would get none.
    pub fn foresee(
        &self, now: Now, latest: Wall, id: ClientId, asked: &Asked, grants: &Grants,
    ) -> Result<ActiveGrant, Refusal> {
        let client = self.client(latest, id).ok_or(Refusal::UnknownClient)?;
        if let Some(refusal) = self.address_refusal(asked, self.services.get(&asked.service)) {
            return Err(refusal);
        }
        self.grant(now, latest, client, self.allowed(client, asked.service)?, asked, grants)
    }

    /// The grant for `source`, which completed the sequence of `door`, if that door grants a
    /// service.
    pub fn through_door(
        &self, now: Now, door: &Door, source: IpAddr, grants: &Grants,
    ) -> Result<DoorGrant, Status> {
        match self.foresee_door(now, door, source, grants) {
            Ok(grant) => Ok(DoorGrant::new(grant)),
            Err(refusal) => Err(refusal.status()),
        }
    }

    /// The grant that somebody at `source` would get now by the sequence of `door`. Only an address
    /// that a client could be granted too: a forged sequence must not open anything for the gateway
    /// itself or for a mapped form.
    ///
    /// # Errors
    /// The reason why it would get none.
    pub fn foresee_door(
        &self, now: Now, door: &Door, source: IpAddr, grants: &Grants,
    ) -> Result<ActiveGrant, Refusal> {
        let name = door.service.ok_or(Refusal::UnknownService)?;
        let service = self.services.get(&name).ok_or(Refusal::UnknownService)?;
        // Commands without a journal entry must not run. The configuration refuses such a door.
        if service.commands.is_some() {
            return Err(Refusal::NotAllowed);
        }
        let canonical = Source::new(source);
        if canonical.ip() != source {
            return Err(Refusal::Address(NeverGranted::NoPeer));
        }
        if let Some(why) = self.never_granted(canonical) {
            return Err(Refusal::Address(why));
        }
        if has_no_target(service, source.is_ipv6()) {
            return Err(Refusal::NoTarget);
        }
        let key = GrantKey {
            holder: Holder::door(&door.name),
            service: service.name,
            source: canonical,
            source_port: 0,
            // Anybody may have forged the sequence: one address, whatever the service would give
            // to a client.
            span: Span::HOST,
        };
        has_room(&key, service, u32::MAX, grants)?;
        let seconds = service.seconds.max(seconds_left(grants, &key, service, now));
        Ok(grant(key, service, now, seconds, AddressProof::Seen))
    }

    /// The reason why a client may not have a grant for this address, whoever it is. A knock that
    /// names no known service is refused later.
    fn address_refusal(&self, asked: &Asked, service: Option<&Service>) -> Option<Refusal> {
        let rule = service.map_or(&SourceRule::Bound, |service| &service.source);
        if !rule.admits(asked.proof, asked.address, Span::HOST) {
            return Some(Refusal::Source);
        }
        self.never_granted(asked.address).map(Refusal::Address)
    }

    /// True if one peer elsewhere can have this address.
    fn grantable(&self, source: Source) -> bool {
        self.never_granted(source).is_none()
    }

    /// The reason why nobody may have a grant for this address.
    fn never_granted(&self, source: Source) -> Option<NeverGranted> {
        if !matches!(reach(source.ip()), AddressScope::Global | AddressScope::Private) {
            return Some(NeverGranted::NoPeer);
        }
        if embeds_ipv4(source) {
            return Some(NeverGranted::Embedded);
        }
        if self.own.contains(&source) {
            return Some(NeverGranted::Own);
        }
        // Something in front of this machine may replace everybody's address by this one: then a
        // grant for it would open the port to everybody.
        match () {
            () if self.is_listed(source) => None,
            () if self.shared.contains(&source) => Some(NeverGranted::Shared),
            () if self.is_from_elsewhere(source) => Some(NeverGranted::Elsewhere),
            () => None,
        }
    }

    /// True if a grant for `span` of this address may go on. In a wider net [`Policy::span_for`]
    /// looks for the addresses that may stand for everybody.
    fn may_keep(&self, source: Source, span: Span) -> bool {
        match span {
            Span::HOST => self.grantable(source),
            _ => !self.is_from_elsewhere(source) || self.is_listed(source),
        }
    }

    /// The span of a grant for this address: the service's, unless that net contains an address
    /// that may stand for everybody.
    fn span_for(&self, service: &Service, address: Source) -> Span {
        let span = service.spans.for_family_of(address);
        let net = span.of(address);
        let mut within = self.shared.iter().filter(|shared| span.of(**shared) == net);
        // An address of this machine is of no use to others.
        let is_safe = |shared: &Source| self.own.contains(shared) || self.is_listed(*shared);
        if within.all(is_safe) && self.may_keep(net, span) { span } else { Span::HOST }
    }

    /// True for a private address that is in none of our networks, at a machine with a public one:
    /// no private network leads here but that of a device in front.
    fn is_from_elsewhere(&self, source: Source) -> bool {
        let v6 = source.ip().is_ipv6();
        // A look-up for each length: there may be a thousand networks.
        let mut around = (1..=if v6 { 128 } else { 32 }).map(|n| Prefix::around(source, n));
        self.has_public[usize::from(v6)]
            && reach(source.ip()) == AddressScope::Private
            && !around.any(|prefix| self.private.contains(&prefix))
    }

    /// True if the admin says that this address belongs to one peer.
    fn is_listed(&self, source: Source) -> bool {
        self.also_grant.iter().any(|prefix| prefix.contains(source))
    }

    fn admit(
        &self, now: Now, latest: Wall, client: &Client, fresh: Fresh, grants: &mut Grants,
    ) -> Decision {
        let kind = fresh.authentic.request().kind;
        if kind == KnockKind::Probe {
            return reply(fresh, Status::Observed, None);
        }
        let asked = Asked::by(&fresh.authentic);
        let refused =
            |fresh, refusal: Refusal| reply(fresh, refusal.status(), Some(Reject::Policy));
        let service = match self.allowed(client, asked.service) {
            Ok(service) => service,
            Err(refusal) => return refused(fresh, refusal),
        };
        if kind == KnockKind::Close {
            return Decision::Close(close(now, fresh, grants));
        }
        match self.grant(now, latest, client, service, &asked, grants) {
            Ok(grant) => {
                // It counts from now on, until it is opened or given up.
                grants.reserve(grant.key);
                Decision::Admit(Admission::new(fresh, grant, port_entries(&service.ports)))
            }
            Err(refusal) => refused(fresh, refusal),
        }
    }

    /// The service of this name, if the client may open it.
    fn allowed(&self, client: &Client, name: ServiceName) -> Result<&Service, Refusal> {
        let service = self.services.get(&name).ok_or(Refusal::UnknownService)?;
        if client.services.contains(&name) { Ok(service) } else { Err(Refusal::NotAllowed) }
    }

    fn grant(
        &self, now: Now, latest: Wall, client: &Client, service: &Service, asked: &Asked,
        grants: &Grants,
    ) -> Result<ActiveGrant, Refusal> {
        let limits = client.limits();
        let v6 = asked.address.ip().is_ipv6();
        // A forward without a target would grant this machine's own port. Commands know of no
        // source port: they would open to the whole address.
        let bound_to_port = asked.source_port != 0;
        if has_no_target(service, v6) {
            return Err(Refusal::NoTarget);
        }
        if service.commands.is_some() && bound_to_port {
            return Err(Refusal::PortOfCommands);
        }
        if !limits.admit(asked.address, Span::HOST) {
            return Err(Refusal::Limited(Limited::From));
        }
        // A clock that is set back must not bring hours back, nor one that was ahead.
        let by_latest = max_seconds(latest, client, service).map_err(Refusal::Limited)?;
        let by_clock = max_seconds(now.wall, client, service).map_err(Refusal::Limited)?;
        // A client that knows its source port knows its address too, and needs no wider net.
        let wide = self.span_for(service, asked.address);
        let span = match !bound_to_port && limits.admit(wide.of(asked.address), wide) {
            true => wide,
            false => Span::HOST,
        };
        let key = GrantKey {
            holder: Holder::Client(client.id),
            service: service.name,
            source: span.of(asked.address),
            source_port: asked.source_port,
            span,
        };
        has_room(&key, service, self.most_grants(client), grants)?;
        let wanted = if asked.seconds == 0 { service.seconds } else { asked.seconds };
        let left = seconds_left(grants, &key, service, now);
        let seconds = wanted.max(left).min(by_latest).min(by_clock).max(1);
        Ok(grant(key, service, now, seconds, asked.proof))
    }

    /// The most live grants of this client.
    pub fn most_grants(&self, client: &Client) -> u32 {
        client.limits().max_grants.unwrap_or(u32::MAX).min(self.max_grants)
    }
}

/// Refuses a grant beyond a limit. The grant with the same key does not count. A holder that has
/// some gets another only while it has less than [`SHARE`] times those that are free, and one is
/// left: so nobody can fill a service, nor can several together, and whoever has none finds room.
fn has_room(
    key: &GrantKey, service: &Service, max_of_holder: u32, grants: &Grants,
) -> Result<(), Refusal> {
    let beside = grants.beside(key);
    let free = service.max_grants.saturating_sub(beside.of_service);
    let own = beside.of_holder_at_service;
    let fair = own == 0 || (free > 1 && own < free.saturating_mul(SHARE));
    let full = match () {
        () if beside.of_holder >= max_of_holder => Full::Holder,
        () if free == 0 => Full::Service,
        () if !fair => Full::Share,
        () => return Ok(()),
    };
    Err(Refusal::Full(full))
}

fn reply(fresh: Fresh, status: Status, reject: Option<Reject>) -> Decision {
    let reply = Reply::new(&fresh.authentic, status, fresh.challenge);
    Decision::Tell(PendingReply { records: fresh.records, reply, reject })
}

/// The end of the sender's grants for the service; only of those for one address or from one
/// source port if the knock names one.
fn close(now: Now, fresh: Fresh, grants: &Grants) -> Closing {
    let holder = Holder::Client(fresh.authentic.client());
    let request = fresh.authentic.request();
    let keys = grants.keys_to_close(holder, request.service, |key| {
        request.address.is_none_or(|address| key.span.of(address) == key.source)
            && (request.source_port == 0 || request.source_port == key.source_port)
    });
    let closings = grants.closings(now, &keys);
    Closing::new(fresh, keys, closings)
}

/// The longest grant that this client may have, if it begins at `opened`; or why it has none then.
fn max_seconds(opened: Wall, client: &Client, service: &Service) -> Result<u32, Limited> {
    let mut most = service.max_seconds.min(client.limits().longest(opened)?);
    if let Some(expires) = client.expires {
        let left = expires.saturating_sub(opened.0 / SECOND);
        most = most.min(saturated_u32(left));
    }
    Ok(most)
}

/// Seconds that the holder already has; 0 for a grant of the other kind.
fn seconds_left(grants: &Grants, key: &GrantKey, service: &Service, now: Now) -> u32 {
    match grants.of(key) {
        Some(grant) if grant.form == service.form => grant.seconds_left(now),
        _ => 0,
    }
}

fn address_proof(authentic: &Authentic) -> AddressProof {
    match authentic.request().address {
        None => AddressProof::Seen,
        Some(named) if named == authentic.source() => AddressProof::Both,
        Some(_) => AddressProof::Signed,
    }
}

fn grant(
    key: GrantKey, service: &Service, opened: Now, seconds: u32, proof: AddressProof,
) -> ActiveGrant {
    let Service { form, cut, .. } = *service;
    ActiveGrant { key, form, ports: service.ports.digest(), opened, seconds, cut, proof }
}

/// True if the service forwards, but not for this address family.
fn has_no_target(service: &Service, v6: bool) -> bool {
    service.forward.as_ref().is_some_and(|forward| forward.target(v6).is_none())
}

/// IPv6 forms that carry an IPv4 address: whoever may have the one could otherwise ask for the
/// other.
fn embeds_ipv4(source: Source) -> bool {
    let IpAddr::V6(v6) = source.ip() else { return false };
    let [a, b, ..] = v6.segments();
    // 6to4, Teredo. NAT64, IPv4-compatible and IPv4-translated forms are outside of 2000::/3 and
    // have no reach.
    a == 0x2002 || (a == 0x2001 && b == 0)
}
