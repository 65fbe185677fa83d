//! The real firewall in two halves: netlink calls for the poll loop, and jobs for another thread
//! that run the nft program and make long lists.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use super::elements::Sets;
use super::loaded_ruleset::LoadedRuleset;
use super::netlink::Netlink;
use super::nft::NftProgram;
use super::ruleset::{GuardPlan, PacketMarks};
use super::table_claim::TableClaim;
use super::tables::{self, RulesInForce};
use super::watch::{Authors, TableWatch};
use super::{Firewall, GuardReport, GuardRules, GuardTask, conntrack, elements};
use crate::config::{self, KnockSettings};
use crate::core::grants::{Change, Element};
use crate::core::service::{DisconnectPolicy, GrantKind, Service};
use crate::core::types::Fault;

/// The most attempts to load the guard while other programs change it.
const TRIES: usize = 8;
/// Milliseconds by which an element may differ from its grant. Between the listing and the
/// comparison some time passes, and a restart counts in whole seconds.
const TOLERANCE: u64 = 1500;

/// The guard as loaded at the start of the process.
pub struct Started {
    /// For the poll loop.
    pub link: NftLink,
    /// For jobs.
    pub guard: NftGuard,
    /// For the poll loop.
    pub watch: TableWatch,
    /// The live elements with the milliseconds left.
    pub elements: Vec<(Element, u64)>,
    /// Tables with a guard that no gateway keeps.
    pub others: Vec<String>,
}

/// Loads the guard in one transaction, or updates a loaded one to these rules; live elements stay
/// as they are. Works in the calling thread's network namespace. May wait. Fails if another gateway
/// uses the table, or if the table is somebody else's. TCP sessions older than the guard stall until their source has a grant.
pub fn start(rules: &GuardRules) -> Result<Started, Fault> {
    let plan = rules.plan()?;
    let authors = Authors::default();
    let program = NftProgram::new(&rules.firewall.nft)?.with(&authors);
    let mut netlink = Netlink::open()?;
    can_cut(&mut netlink, &plan, &rules.services)?;
    let owner = TableClaim::claim(plan.table())?;
    tables::check_is_ours(&mut netlink, plan.table())?;
    let mut kept = Netlink::open()?;
    authors.add(kept.port());
    let refresh = elements::probe(&mut kept);
    let watch = TableWatch::open(plan.table(), &authors, Some(kept.port()))?;
    let link = NftLink {
        netlink: kept,
        sets: Sets::new(&plan, refresh),
        marks: plan.marks(),
        services: rules.services.clone(),
        services_before: Vec::new(),
        table: plan.table().to_owned(),
        _owner: owner,
    };
    let loaded = load(&program, &mut netlink, &plan, &authors)?;
    let mut guard = LoadedGuard { program, plan, loaded, authors, netlink };
    let elements = guard.elements()?;
    let others = other_guards(&mut guard.netlink, guard.plan.table())?;
    Ok(Started { link, guard: NftGuard(Arc::new(Mutex::new(guard))), watch, elements, others })
}

/// The half for the poll loop: one open netlink socket.
pub struct NftLink {
    netlink: Netlink,
    table: String,
    sets: Sets,
    marks: PacketMarks,
    services: Vec<Service>,
    /// The services of the rules before, whose grants may still have connections.
    services_before: Vec<Service>,
    _owner: TableClaim,
}

impl Firewall for NftLink {
    fn apply(&mut self, changes: &[Change]) -> Result<(), Fault> {
        self.sets.apply(&mut self.netlink, changes)
    }

    fn remaining(&mut self, element: &Element) -> Result<Option<u64>, Fault> {
        self.sets.remaining(&mut self.netlink, element)
    }

    fn cut(&mut self, elements: &[Element]) -> Result<(), Fault> {
        let rules = [self.services.as_slice(), self.services_before.as_slice()];
        conntrack::cut(&mut self.netlink, self.marks, rules, elements)
    }

    fn is_there(&mut self) -> Result<bool, Fault> {
        elements::is_there(&mut self.netlink, &self.table)
    }

    fn use_rules(&mut self, rules: &GuardRules) {
        // The rules were loaded, so they have a plan.
        if let Ok(plan) = rules.plan() {
            self.sets.follow(&plan);
            self.marks = plan.marks();
        }
        self.services_before = std::mem::replace(&mut self.services, rules.services.clone());
    }
}

/// The half for another thread. Clones share the same guard; each task waits for the one before.
#[derive(Clone)]
pub struct NftGuard(Arc<Mutex<LoadedGuard>>);

struct LoadedGuard {
    program: NftProgram,
    plan: GuardPlan,
    /// The rules as read back after the last load.
    loaded: RulesInForce,
    authors: Authors,
    netlink: Netlink,
}

impl NftGuard {
    /// Runs one task and may wait. Call it from a thread in our network namespace. After an error
    /// the old rules stay in force.
    pub fn run(&self, task: GuardTask) -> Result<GuardReport, Fault> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match task {
            GuardTask::Load(rules) => guard.load(&rules),
            GuardTask::Verify(rules) => {
                guard.verify(&rules)?;
                Ok(GuardReport::Verified)
            }
            GuardTask::Repair => guard.repair(),
            GuardTask::Check => {
                let sound = guard.is_sound()?;
                let LoadedGuard { netlink, plan, .. } = &mut *guard;
                let others = other_guards(netlink, plan.table())?;
                Ok(GuardReport::Checked { sound, others })
            }
            GuardTask::Unload => {
                guard.program.load(&guard.plan.text_off())?;
                Ok(GuardReport::Unloaded)
            }
            GuardTask::Standing(elements) => {
                let LoadedGuard { netlink, plan, .. } = &mut *guard;
                let found = conntrack::stands(netlink, plan.marks(), plan.services(), &elements);
                Ok(GuardReport::Standing(found?))
            }
        }
    }
}

impl LoadedGuard {
    fn verify(&mut self, rules: &GuardRules) -> Result<(GuardPlan, NftProgram), Fault> {
        let plan = rules.plan()?;
        let program = NftProgram::new(&rules.firewall.nft)?.with(&self.authors);
        if plan.table() != self.plan.table() {
            let what = "firewall.table cannot change while toctocd runs";
            return Err(Fault::new(what, "restart toctocd"));
        }
        can_cut(&mut self.netlink, &plan, &rules.services)?;
        Ok((plan, program))
    }

    fn load(&mut self, rules: &GuardRules) -> Result<GuardReport, Fault> {
        let (plan, program) = self.verify(rules)?;
        self.loaded = load(&program, &mut self.netlink, &plan, &self.authors)?;
        self.plan = plan;
        self.program = program;
        Ok(GuardReport::Loaded { reloaded: true, elements: self.elements()? })
    }

    fn repair(&mut self) -> Result<GuardReport, Fault> {
        let reloaded = !self.is_sound()?;
        if reloaded {
            let LoadedGuard { program, netlink, plan, authors, .. } = self;
            self.loaded = load(program, netlink, plan, authors)?;
        }
        Ok(GuardReport::Loaded { reloaded, elements: self.elements()? })
    }

    /// True if table, chains, sets and rules are exactly as loaded.
    fn is_sound(&mut self) -> Result<bool, Fault> {
        let found = tables::rules_in_force(&mut self.netlink, self.plan.table())?;
        Ok(found.as_ref() == Some(&self.loaded))
    }

    fn elements(&mut self) -> Result<Vec<(Element, u64)>, Fault> {
        elements::list(&mut self.netlink, &self.plan)
    }
}

/// Checks in advance that connections can be cut, if a service asks for it: a revocation would be
/// too late to find out.
fn can_cut(netlink: &mut Netlink, plan: &GuardPlan, services: &[Service]) -> Result<(), Fault> {
    if services.iter().any(|service| service.cut != DisconnectPolicy::Never) {
        conntrack::flows(netlink, plan.marks())?;
    }
    Ok(())
}

/// The guard's text for a file that nftables.conf includes after its flush. It contains no grants.
pub fn print_ruleset(
    settings: &config::FirewallSettings, services: &[Service], knock: &KnockSettings,
) -> Result<String, Fault> {
    Ok(GuardPlan::new(settings, services, knock)?.text())
}

/// Removes the guard with its grants, which opens the guarded ports. Fails if a gateway uses the
/// table.
pub fn unload(
    settings: &config::FirewallSettings, services: &[Service], knock: &KnockSettings,
) -> Result<(), Fault> {
    let plan = GuardPlan::new(settings, services, knock)?;
    let _owner = TableClaim::claim(plan.table())?;
    tables::check_is_ours(&mut Netlink::open()?, plan.table())?;
    NftProgram::new(&settings.nft)?.load(&plan.text_off())
}

/// The state of the guard as another process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardState {
    /// `None` if the table does not exist; otherwise the first difference from these settings, if
    /// any.
    pub misfit: Option<Option<String>>,
    /// Packets dropped, by chain. `ask/tcp` and `ask/udp`: no grant. `judge/tcp`: part of no
    /// granted connection. `guard/udp`: sent to the silent knock port. Each load resets the
    /// counts to 0.
    pub dropped: BTreeMap<String, u64>,
    /// Tables with a guard that no gateway keeps. They drop packets too.
    pub others: Vec<String>,
}

/// Reads the state and changes nothing.
pub fn look_at(
    settings: &config::FirewallSettings, services: &[Service], knock: &KnockSettings,
) -> Result<GuardState, Fault> {
    let plan = GuardPlan::new(settings, services, knock)?;
    let mut netlink = Netlink::open()?;
    let others = other_guards(&mut netlink, plan.table())?;
    let program = NftProgram::new(&settings.nft)?;
    let Some(found) = LoadedRuleset::read(&program.list_all()?, plan.table())? else {
        return Ok(GuardState { misfit: None, dropped: BTreeMap::new(), others });
    };
    let misfit = match tables::check_is_ours(&mut netlink, plan.table()) {
        Ok(()) => found.misfit(&plan),
        Err(foreign) => Some(foreign.what),
    };
    Ok(GuardState { misfit: Some(misfit), dropped: found.dropped(), others })
}

/// The running gateway that keeps `table` in this thread's network namespace, as text.
pub fn keeper(table: &str) -> Option<String> {
    TableClaim::holder(table)
}

/// The tables with a guard, except `table`, that no running gateway keeps: most likely
/// `firewall.table` had another value before.
pub(super) fn other_guards(netlink: &mut Netlink, table: &str) -> Result<Vec<String>, Fault> {
    let mut others = tables::tables_with_a_guard(netlink)?;
    others.remove(table);
    others.retain(|other| TableClaim::holder(other).is_none());
    Ok(others.into_iter().collect())
}

/// Loads the guard and reads it back, until it fits the plan and no other program has changed the
/// table in between. Later checks compare with the rules read back here.
fn load(
    program: &NftProgram, netlink: &mut Netlink, plan: &GuardPlan, authors: &Authors,
) -> Result<RulesInForce, Fault> {
    let _remembered = authors.remember();
    let mut watch = TableWatch::open(plan.table(), authors, None)?;
    let mut misfit = None;
    let mut anew = false;
    for _ in 0..TRIES {
        watch.look();
        load_once(program, netlink, plan, anew)?;
        let listed = LoadedRuleset::read(&program.list_all()?, plan.table())?;
        let in_force = tables::rules_in_force(netlink, plan.table())?;
        let is_settled = watch.look().is_nothing();
        misfit = match (listed.map(|listed| listed.misfit(plan)), in_force) {
            (Some(None), Some(rules)) if is_settled => return Ok(rules),
            (Some(misfit), _) => misfit,
            (None, _) => Some("it is not there".to_owned()),
        };
        // Next time replace the whole table: our text does not remove everything foreign.
        anew = is_settled;
    }
    let why = misfit.unwrap_or_else(|| "another program keeps changing it".to_owned());
    Err(Fault::new(
        format!("the guard was loaded {TRIES} times and does not stand as it was loaded: {why}"),
        format!(
            "see what else changes nftables: `nft monitor`, `nft list table inet {}`",
            plan.table()
        ),
    ))
}

/// Loads the guard in one transaction; `anew` drops the live elements.
fn load_once(
    program: &NftProgram, netlink: &mut Netlink, plan: &GuardPlan, anew: bool,
) -> Result<(), Fault> {
    if anew {
        return program.load(&plan.text_anew());
    }
    let stale = tables::stale(netlink, plan)?;
    let text = plan.text_without(&stale.chains, &stale.sets);
    let Err(fault) = program.load(&text) else { return Ok(()) };
    // A table that conflicts with ours (a chain without its hook, a set of another type) refuses
    // the change. Replace it then; the grants are put back afterwards.
    program.load(&plan.text_anew()).map_err(|_| fault)
}

/// True if an element with this time left is near enough to what it should have.
pub fn is_right(left: u64, wanted: u64) -> bool {
    left.abs_diff(wanted) <= TOLERANCE
}

/// The changes that turn the kernel's elements `found` into those of `expected`, where they differ.
///
/// A missing one-connection element is not put back: it may have been spent or flushed, and a
/// second connection is worse than a second knock.
pub fn reconcile(found: &[(Element, u64)], expected: &[Change]) -> Vec<Change> {
    let mut unclaimed: HashMap<Element, u64> = found.iter().copied().collect();
    let mut changes = Vec::new();
    for change in expected {
        let Change::Set { element, millis } = change else { continue };
        let left = unclaimed.remove(element);
        if left.is_some_and(|left| is_right(left, *millis)) {
            continue;
        }
        // No timeout can be given to an element that has none.
        if left == Some(u64::MAX) {
            changes.push(Change::Remove { element: *element });
        }
        match element.form {
            GrantKind::Time => changes.push(*change),
            GrantKind::Once if left.is_some_and(|left| left > *millis) => {
                changes.push(Change::Shorten { element: *element, millis: *millis });
            }
            GrantKind::Once => {}
        }
    }
    // In the order of the listing, so that equal states lead to equal changes.
    for (element, _) in found.iter().filter(|(element, _)| unclaimed.contains_key(element)) {
        changes.push(Change::Remove { element: *element });
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::{ServiceName, Source};

    fn element(last: u8, form: GrantKind) -> Element {
        let source = Source::new(std::net::IpAddr::from([192, 0, 2, last]));
        Element::plain(ServiceName::new("ssh").unwrap(), source, form)
    }

    fn set(element: Element, millis: u64) -> Change {
        Change::Set { element, millis }
    }

    #[test]
    fn reconciling_sets_lost_time_grants_removes_strangers_and_never_rearms_a_single_connection() {
        let [kept, lost, alien] = [1, 2, 3].map(|last| element(last, GrantKind::Time));
        let [once, spent] = [1, 2].map(|last| element(last, GrantKind::Once));
        let expected = [kept, lost, once, spent].map(|element| set(element, 5000));
        let found = [(kept, 4000), (alien, 9000), (once, 4000)];
        let changes = vec![set(lost, 5000), Change::Remove { element: alien }];
        assert_eq!(reconcile(&found, &expected), changes);
    }

    #[test]
    fn only_an_element_whose_time_is_wrong_is_sent_again() {
        let [one, other] = [GrantKind::Time, GrantKind::Once].map(|form| element(1, form));
        let expected = [set(one, 10_000), set(other, 10_000)];
        for left in [10_000, 10_000 - TOLERANCE, 10_000 + TOLERANCE] {
            assert_eq!(reconcile(&[(one, left), (other, left)], &expected), [], "{left}");
        }
        for left in [1, 10_000 - TOLERANCE - 1] {
            assert_eq!(reconcile(&[(one, left), (other, left)], &expected), [set(one, 10_000)]);
        }
        let shorten = Change::Shorten { element: other, millis: 10_000 };
        let too_long = 10_001 + TOLERANCE;
        assert_eq!(
            reconcile(&[(one, too_long), (other, too_long)], &expected),
            [set(one, 10_000), shorten]
        );
        let permanent = [Change::Remove { element: one }, set(one, 10_000)];
        assert_eq!(reconcile(&[(one, u64::MAX)], &expected), permanent);
    }
}
