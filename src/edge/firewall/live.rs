//! The real firewall in two halves: netlink calls for the poll loop, and jobs for another thread
//! that run the nft program and make long lists.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::loaded_ruleset::{self, LoadedRuleset};
use super::netlink::Netlink;
use super::nft::NftProgram;
use super::ruleset::{GuardPlan, PacketMarks};
use super::table_claim::TableClaim;
use super::watch::{Authors, TableWatch};
use super::{Firewall, GuardReport, GuardRules, GuardTask, conntrack, elements};
use crate::config::{self, KnockSettings};
use crate::core::grants::{Change, Element};
use crate::core::service::{DisconnectPolicy, GrantKind, Service};
use crate::core::types::Fault;

/// The most attempts to load the guard while other programs change it.
const TRIES: usize = 8;

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
}

/// Loads the guard in one transaction, or updates a loaded one to these rules; live elements stay
/// as they are. Works in the calling thread's network namespace. May wait. Fails if another gateway
/// uses the table. TCP sessions older than the guard stall until their source has a grant.
pub fn start(rules: &GuardRules) -> Result<Started, Fault> {
    let plan = rules.plan()?;
    let authors = Authors::default();
    let program = NftProgram::new(&rules.firewall.nft)?.with(&authors);
    let mut netlink = Netlink::open()?;
    can_cut(&mut netlink, &plan, &rules.services)?;
    let owner = TableClaim::claim(plan.table())?;
    let kept = Netlink::open()?;
    authors.add(kept.port());
    let link = NftLink {
        netlink: kept,
        table: plan.table().to_owned(),
        marks: plan.marks(),
        _owner: owner,
    };
    let watch = TableWatch::open(plan.table(), &authors)?;
    let loaded = load(&program, &plan, &authors)?;
    let mut guard = LoadedGuard { program, plan, loaded, authors, netlink };
    let elements = guard.elements()?;
    Ok(Started { link, guard: NftGuard(Arc::new(Mutex::new(guard))), watch, elements })
}

/// The half for the poll loop: one open netlink socket.
pub struct NftLink {
    netlink: Netlink,
    table: String,
    marks: PacketMarks,
    _owner: TableClaim,
}

impl Firewall for NftLink {
    fn apply(&mut self, changes: &[Change]) -> Result<(), Fault> {
        elements::apply(&mut self.netlink, &self.table, changes)
    }

    fn remaining(&mut self, element: &Element) -> Result<Option<u64>, Fault> {
        elements::remaining(&mut self.netlink, &self.table, element)
    }

    fn cut(&mut self, elements: &[Element]) -> Result<(), Fault> {
        conntrack::cut(&mut self.netlink, self.marks, elements)
    }

    fn is_there(&mut self) -> Result<bool, Fault> {
        elements::is_there(&mut self.netlink, &self.table)
    }

    fn use_settings(&mut self, settings: &config::FirewallSettings) {
        self.marks = PacketMarks { granted: settings.mark, pending: settings.pending_mark };
    }
}

/// The half for another thread. Clones share the same guard; each task waits for the one before.
#[derive(Clone)]
pub struct NftGuard(Arc<Mutex<LoadedGuard>>);

struct LoadedGuard {
    program: NftProgram,
    plan: GuardPlan,
    /// The ruleset as read back after the last load.
    loaded: LoadedRuleset,
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
            GuardTask::Check => Ok(GuardReport::Checked { sound: guard.is_sound()? }),
            GuardTask::Unload => {
                guard.program.load(&guard.plan.text_off())?;
                Ok(GuardReport::Unloaded)
            }
            GuardTask::Flows => {
                let marks = guard.plan.marks();
                Ok(GuardReport::Flows(conntrack::flows(&mut guard.netlink, marks)?))
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
        self.loaded = load(&program, &plan, &self.authors)?;
        self.plan = plan;
        self.program = program;
        Ok(GuardReport::Loaded { reloaded: true, elements: self.elements()? })
    }

    fn repair(&mut self) -> Result<GuardReport, Fault> {
        let reloaded = !self.is_sound()?;
        if reloaded {
            self.loaded = load(&self.program, &self.plan, &self.authors)?;
        }
        Ok(GuardReport::Loaded { reloaded, elements: self.elements()? })
    }

    /// True if table, chains, sets and rules are exactly as loaded.
    fn is_sound(&self) -> Result<bool, Fault> {
        Ok(stands(&self.program, &self.plan)?.as_ref() == Some(&self.loaded))
    }

    fn elements(&mut self) -> Result<Vec<(Element, u64)>, Fault> {
        elements::list(&mut self.netlink, self.plan.table())
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
    NftProgram::new(&settings.nft)?.load(&plan.text_off())
}

/// The state of the guard as another process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardState {
    /// `None` if the table does not exist; otherwise the first difference from these settings, if
    /// any.
    pub misfit: Option<Option<String>>,
    /// Packets dropped, by chain. `opening` and `datagram`: no grant. `stream`: part of no granted
    /// connection. `guard`: sent to the silent knock port. Each load resets the counts to 0.
    pub dropped: BTreeMap<String, u64>,
}

/// Reads the state and changes nothing.
pub fn look_at(
    settings: &config::FirewallSettings, services: &[Service], knock: &KnockSettings,
) -> Result<GuardState, Fault> {
    let plan = GuardPlan::new(settings, services, knock)?;
    let program = NftProgram::new(&settings.nft)?;
    let Some(json) = program.list(plan.table())? else {
        return Ok(GuardState { misfit: None, dropped: BTreeMap::new() });
    };
    let misfit = LoadedRuleset::read(&json)?.misfit(&plan);
    Ok(GuardState { misfit: Some(misfit), dropped: loaded_ruleset::dropped(&json)? })
}

/// Loads the guard and reads it back, until it fits the plan and no other program has changed the
/// table in between. Later checks compare with the ruleset read back here.
fn load(program: &NftProgram, plan: &GuardPlan, authors: &Authors) -> Result<LoadedRuleset, Fault> {
    let _remembered = authors.remember();
    let mut watch = TableWatch::open(plan.table(), authors)?;
    let mut misfit = None;
    let mut anew = false;
    for _ in 0..TRIES {
        watch.look();
        load_once(program, plan, anew)?;
        let found = stands(program, plan)?;
        let is_settled = watch.look().is_empty();
        misfit = match found {
            Some(ruleset) => match ruleset.misfit(plan) {
                None if is_settled => return Ok(ruleset),
                other => other,
            },
            None => Some("it is not there".to_owned()),
        };
        // Next time replace the whole table: our text does not remove a foreign chain.
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
fn load_once(program: &NftProgram, plan: &GuardPlan, anew: bool) -> Result<(), Fault> {
    if anew {
        return program.load(&plan.text_anew());
    }
    let Err(fault) = program.load(&plan.text()) else { return Ok(()) };
    // A table that conflicts with ours (a set of an older version, a chain without its hook)
    // refuses the change. Replace it then; the grants are put back afterwards.
    program.load(&plan.text_anew()).map_err(|_| fault)
}

fn stands(program: &NftProgram, plan: &GuardPlan) -> Result<Option<LoadedRuleset>, Fault> {
    match program.list(plan.table())? {
        Some(json) => Ok(Some(LoadedRuleset::read(&json)?)),
        None => Ok(None),
    }
}

/// The changes that turn the kernel's elements `found` into those of `expected`.
///
/// A missing one-connection element is not put back: it may have been spent or flushed, and a
/// second connection is worse than a second knock.
pub fn reconcile(found: &[(Element, u64)], expected: &[Change]) -> Vec<Change> {
    let mut wanted = HashSet::new();
    let mut changes = Vec::new();
    for change in expected {
        if let Change::Set { element, .. } = change {
            wanted.insert(*element);
            if element.form == GrantKind::Time {
                changes.push(*change);
            }
        }
    }
    for (element, _) in found {
        if !wanted.contains(element) {
            changes.push(Change::Remove { element: *element });
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::{Port, Proto, Source};

    fn element(last: u8, form: GrantKind) -> Element {
        let source = Source::new(std::net::IpAddr::from([192, 0, 2, last]));
        Element::plain(source, Port { proto: Proto::Tcp, number: 22 }, form)
    }

    #[test]
    fn reconciling_sets_time_grants_removes_strangers_and_never_rearms_a_single_connection() {
        let [kept, lost, alien] = [1, 2, 3].map(|last| element(last, GrantKind::Time));
        let [once, spent] = [1, 2].map(|last| element(last, GrantKind::Once));
        let expected =
            [kept, lost, once, spent].map(|element| Change::Set { element, millis: 5000 });
        let found = [(kept, 4000), (alien, 9000), (once, 4000)];
        let changes = vec![
            Change::Set { element: kept, millis: 5000 },
            Change::Set { element: lost, millis: 5000 },
            Change::Remove { element: alien },
        ];
        assert_eq!(reconcile(&found, &expected), changes);
    }
}
