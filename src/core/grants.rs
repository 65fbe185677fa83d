//! The list of live grants, and the kernel elements that it amounts to.
//! Who may have one is left to `policy`, putting elements into the kernel to `edge::firewall`.

use std::collections::{BTreeMap, BTreeSet};

use super::knock::Ports;
use super::ledger::Ledger;
use super::openings::ServiceAddress;
use super::policy::{DoorGrant, Grant};
use super::prefix::Span;
use super::record::Record;
use super::reply::Reply;
use super::service::{AddressProof, DisconnectPolicy, GrantKind};
use super::types::{Boot, ClientId, Now, Port, Proto, SECOND, ServiceName, Source, Wall};

/// How many grants may be live at once, over all services.
pub const GRANTS: usize = 4096;

/// Who holds a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// An enrolled client.
    Client(ClientId),
    /// A classic door; 16 bytes that name it.
    Door([u8; 16]),
}

impl Holder {
    /// The door of this name. FNV-1a: names are the admin's, nobody has to be kept from finding two
    /// alike.
    pub fn door(name: &str) -> Self {
        let mix = |hash: u128, byte: u8| {
            (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b)
        };
        Holder::Door(
            name.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, mix).to_be_bytes(),
        )
    }
}

/// What makes two grants the same one: asking again makes it last longer, it does not make it two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantKey {
    /// Who holds it.
    pub holder: Holder,
    /// For what.
    pub service: ServiceName,
    /// For which address.
    pub source: Source,
    /// From which source port; 0 = any.
    pub source_port: u16,
    /// Whether for that address alone; of a wider one `source` is the first address.
    pub span: Span,
}

impl GrantKey {
    /// Who may connect: `192.0.2.7`, `192.0.2.7 port 40000`, `2001:db8::/64`.
    pub fn who(&self) -> String {
        let GrantKey { source, source_port, .. } = self;
        match (self.span, source_port) {
            (Span::Net64, _) => format!("{source}/64"),
            (Span::Host, 0) => source.to_string(),
            (Span::Host, port) => format!("{source} port {port}"),
        }
    }
}

/// A live grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveGrant {
    /// Whose, for what, for whom.
    pub key: GrantKey,
    /// One connection, or any number.
    pub form: GrantKind,
    /// To which ports.
    pub ports: Ports,
    /// When it began, by both clocks.
    pub opened: Now,
    /// For how long from then on.
    pub seconds: u32,
    /// Whether connections end with it; as the service said when it began.
    pub cut: DisconnectPolicy,
    /// Why for this address.
    pub basis: AddressProof,
}

impl ActiveGrant {
    /// When it ends, for people and for the record.
    pub fn until(&self) -> Wall {
        self.opened.wall.plus(self.seconds)
    }

    /// When it ends.
    pub fn deadline(&self) -> Boot {
        self.opened.boot.plus(self.seconds)
    }

    /// Seconds from `now` to its end, rounded up, so that a whole grant shows its whole time.
    pub fn seconds_left(&self, now: Now) -> u32 {
        let left = self.deadline().0.saturating_sub(now.boot.0).div_ceil(SECOND);
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    /// Where it is if its service is one of commands: then it has no ports, and the kernel knows
    /// nothing of it.
    pub fn place(&self) -> Option<ServiceAddress> {
        let GrantKey { service, source, .. } = self.key;
        self.ports.iter().all(Option::is_none).then_some(ServiceAddress { service, source })
    }

    /// The kernel's elements: one connection is for TCP only, a UDP port of such a service is
    /// granted by time.
    fn elements(&self) -> impl Iterator<Item = Element> {
        let GrantKey { source, source_port, span, .. } = self.key;
        let form = self.form;
        let form = move |port: Port| if port.proto == Proto::Tcp { form } else { GrantKind::Time };
        let ports = self.ports.into_iter().flatten();
        ports.map(move |port| Element { source, source_port, span, port, form: form(port) })
    }

    /// Whether connections that came in under it end when it ends so.
    fn is_cut(&self, how: GrantEnd) -> bool {
        match how {
            GrantEnd::Closed => self.cut >= DisconnectPolicy::Closed,
            GrantEnd::Revoked => self.cut >= DisconnectPolicy::Revoked,
            GrantEnd::Changed => false,
        }
    }

    /// The same grant after a restart at `now`, by whichever clock leaves it less. None is left of
    /// a grant that began after `now`: then the clock was set back, and how much of it is over
    /// cannot be known.
    fn restored(self, now: Now) -> Option<ActiveGrant> {
        let by_wall = self.until().0.saturating_sub(now.wall.0);
        // Within one boot this is exact; after another boot it is at worst too little.
        let by_boot = match now.boot >= self.opened.boot {
            true => self.deadline().0.saturating_sub(now.boot.0),
            false => u64::MAX,
        };
        let seconds = u32::try_from(by_wall.min(by_boot) / SECOND).ok()?;
        (now.wall >= self.opened.wall && seconds > 0).then_some(ActiveGrant {
            opened: now,
            seconds,
            ..self
        })
    }
}

/// How a grant ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantEnd {
    /// Its holder wants no more of it.
    Closed,
    /// Its holder may not have it any more.
    Revoked,
    /// Its holder may have such a grant, but not this one: it is for other ports, of another form
    /// or for less time now.
    Changed,
}

/// All live grants, and what the kernel was told about them.
#[derive(Debug, Default)]
pub struct Grants {
    live: BTreeMap<GrantKey, ActiveGrant>,
    /// Grants that are over, of services whose connections can be cut: their connections may still
    /// stand.
    past: BTreeMap<GrantKey, ActiveGrant>,
    reserved: BTreeSet<GrantKey>,
    /// What the kernel holds, as far as we told it. An element that was spent there still stands
    /// here.
    kernel: BTreeMap<Element, Boot>,
}

impl Grants {
    /// The grants that a restart left, with the time that they have left. Give `standing` to the
    /// firewall's restore.
    pub fn restore(now: Now, ledger: &Ledger) -> Self {
        let mut grants = Self::default();
        // One of commands is never stored: at a start all of those are over.
        for before in ledger.grants().filter(|live| live.place().is_none()) {
            let Some(live) = before.restored(now).filter(|_| grants.live.len() < GRANTS) else {
                grants.remember(*before);
                continue;
            };
            grants.live.insert(live.key, live);
            for element in live.elements() {
                let until = grants.kernel.entry(element).or_default();
                *until = live.deadline().max(*until);
            }
        }
        grants
    }

    /// Begins `grant`: what to tell the kernel, and the answer for its holder. One that it already
    /// had goes on at least as long as it would have.
    pub fn open(&mut self, now: Now, grant: Grant) -> (Vec<Change>, Reply) {
        let (live, mut answer) = grant.into_parts();
        let (changes, live) = self.begin(now, live);
        answer.granted = Some(live);
        (changes, answer)
    }

    /// Begins what a classic door grants: what to tell the kernel, and the grant as it is then, for
    /// its record.
    pub fn open_for_door(&mut self, now: Now, grant: DoorGrant) -> (Vec<Change>, ActiveGrant) {
        self.begin(now, grant.into_live())
    }

    fn begin(&mut self, now: Now, live: ActiveGrant) -> (Vec<Change>, ActiveGrant) {
        self.reserved.remove(&live.key);
        self.past.remove(&live.key);
        let before = self.live.get(&live.key).copied();
        // Two of one batch were decided without knowing of each other.
        let outlasts =
            |before: &ActiveGrant| before.form == live.form && before.deadline() > live.deadline();
        let live = ActiveGrant {
            ports: live.ports,
            basis: live.basis,
            ..before.filter(outlasts).unwrap_or(live)
        };
        self.live.insert(live.key, live);
        let armed: BTreeSet<Element> = live.elements().collect();
        let mut touched = armed.clone();
        touched.extend(before.iter().flat_map(ActiveGrant::elements));
        // What only the grant of before a reload had may be a neighbour's too: that is not armed
        // anew.
        let changes = self.settle(now, touched, |element| {
            if armed.contains(element) { ElementFit::Arm } else { ElementFit::Shorten }
        });
        (changes, live)
    }

    /// Ends these grants, and where their services say so the connections that came in under them,
    /// also under one that is over. A neighbour's grants stay, and on a close his connections too.
    pub fn end(&mut self, now: Now, keys: &[GrantKey], how: GrantEnd) -> Vec<Change> {
        let ended: Vec<ActiveGrant> = keys.iter().filter_map(|key| self.live.remove(key)).collect();
        let over: Vec<ActiveGrant> = keys.iter().filter_map(|key| self.past.remove(key)).collect();
        let touched = ended.iter().flat_map(ActiveGrant::elements).collect();
        let fits: BTreeMap<Element, ElementFit> = ended
            .iter()
            .flat_map(|one| {
                one.elements().map(|element| (element, self.fit_after(&ended, &element, how)))
            })
            .collect();
        let mut changes = self.settle(now, touched, |element| {
            fits.get(element).copied().unwrap_or(ElementFit::Remove)
        });
        changes.extend(self.cuts(ended.iter().chain(&over), how));
        changes
    }

    /// What becomes of an element that some of `ended` had, where others still have it.
    fn fit_after(&self, ended: &[ActiveGrant], element: &Element, how: GrantEnd) -> ElementFit {
        let last = |mut lives: Vec<&ActiveGrant>| {
            lives.retain(|live| live.elements().any(|other| other == *element));
            lives.iter().map(|live| live.opened.boot).max()
        };
        match (element.form, how) {
            (GrantKind::Time, _) => ElementFit::Arm,
            // The one connection that is still to come may be the revoked client's: it armed the
            // element last, and whether it was spent before cannot be told. A neighbour who armed
            // it after that keeps what is his.
            (GrantKind::Once, GrantEnd::Revoked)
                if last(self.live.values().collect()) <= last(ended.iter().collect()) =>
            {
                ElementFit::Remove
            }
            (GrantKind::Once, _) => ElementFit::Shorten,
        }
    }

    /// Forgets what is over. The kernel ends its elements by itself.
    pub fn expire(&mut self, now: Now) -> Vec<Change> {
        let over: Vec<ActiveGrant> =
            self.live.values().filter(|live| live.deadline() <= now.boot).copied().collect();
        self.live.retain(|_, live| live.deadline() > now.boot);
        over.iter().for_each(|live| self.remember(*live));
        let touched = over.iter().flat_map(ActiveGrant::elements).collect();
        let changes = self.settle(now, touched, |_| ElementFit::Shorten);
        self.kernel.retain(|_, until| *until > now.boot);
        changes
    }

    /// When [`Grants::expire`] has something to do next.
    pub fn deadline(&self) -> Option<Boot> {
        self.live.values().map(ActiveGrant::deadline).min()
    }

    /// The live grants, for status.
    pub fn list(&self) -> impl Iterator<Item = &ActiveGrant> {
        self.live.values()
    }

    /// Where somebody has a grant of a service of commands.
    pub fn places(&self) -> BTreeSet<ServiceAddress> {
        self.live.values().filter_map(ActiveGrant::place).collect()
    }

    /// All that the kernel should hold now: for a start, and after somebody flushed it.
    pub fn expected_elements(&self, now: Now) -> Vec<Change> {
        let left = |until: &Boot| until.0.saturating_sub(now.boot.0) / 1_000_000;
        let set = |(element, until): (&Element, &Boot)| Change::Set {
            element: *element,
            millis: left(until),
        };
        self.kernel.iter().filter(|(_, until)| left(until) > 0).map(set).collect()
    }

    /// The live grants, and those being decided: each once.
    pub fn keys(&self) -> impl Iterator<Item = &GrantKey> {
        self.live.keys().chain(self.reserved.iter().filter(|key| !self.live.contains_key(key)))
    }

    /// The records that make the end of these grants durable. Store them before [`Grants::end`].
    pub fn endings(keys: &[GrantKey]) -> Vec<Record> {
        keys.iter().copied().map(Record::Ended).collect()
    }

    /// The live grant of this key.
    pub fn of(&self, key: &GrantKey) -> Option<&ActiveGrant> {
        self.live.get(key)
    }

    /// Counts a grant that is being decided, until it is opened or given up.
    pub(super) fn reserve(&mut self, key: GrantKey) {
        self.reserved.insert(key);
    }

    /// Gives up what was being decided and came to nothing: after a commit that failed.
    pub fn give_up(&mut self) {
        self.reserved.clear();
    }

    /// Makes the kernel's `touched` elements fit the list; `fit` says how where the kernel's time
    /// is not what the list has.
    fn settle(
        &mut self,
        now: Now,
        touched: BTreeSet<Element>,
        fit: impl Fn(&Element) -> ElementFit,
    ) -> Vec<Change> {
        touched
            .into_iter()
            .filter_map(|element| self.settle_one(now, element, fit(&element)))
            .collect()
    }

    fn settle_one(&mut self, now: Now, element: Element, fit: ElementFit) -> Option<Change> {
        let holders =
            self.live.values().filter(|live| live.elements().any(|other| other == element));
        let wanted = holders.map(ActiveGrant::deadline).max().filter(|until| *until > now.boot);
        let millis = |until: Boot| (until.0 - now.boot.0) / 1_000_000;
        match (wanted, fit) {
            (Some(until), ElementFit::Arm) => {
                self.kernel.insert(element, until);
                Some(Change::Set { element, millis: millis(until) })
            }
            (Some(until), ElementFit::Shorten) => {
                let known = self.kernel.get_mut(&element).filter(|known| **known > until)?;
                *known = until;
                Some(Change::Shorten { element, millis: millis(until) })
            }
            (None, _) | (Some(_), ElementFit::Remove) => {
                let until = self.kernel.remove(&element)?;
                (until > now.boot).then_some(Change::Remove { element })
            }
        }
    }
}

/// What becomes of an element that somebody still holds.
#[derive(Clone, Copy)]
enum ElementFit {
    /// It lasts as long as its longest grant, and is armed anew.
    Arm,
    /// It lasts no longer than its longest grant.
    Shorten,
    /// It goes all the same.
    Remove,
}

mod element;
mod past;

pub use element::{Change, Element, Flow};

#[cfg(test)]
mod tests;
