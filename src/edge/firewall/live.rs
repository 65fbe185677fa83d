//! The real firewall in two halves: netlink calls for the poll loop, and jobs for another thread
//! that run the nft program and make long lists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::conntrack::GrantedConnections;
use super::elements::Sets;
use super::loaded_ruleset::LoadedRuleset;
use super::netlink::Netlink;
use super::nft::NftProgram;
use super::ruleset::{GuardPlan, is_set_of_this_boot};
use super::table_claim::TableClaim;
use super::tables::{self, RulesInForce};
use super::watch::{Authors, TableWatch};
use super::{Firewall, GuardReport, GuardRules, GuardTask, conntrack, elements};
use crate::core::grants::{Change, Element};
use crate::core::types::{Boot, Fault};
use crate::edge::clock;

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
    pub elements: BTreeMap<Element, u64>,
    /// Tables with a guard that no gateway keeps.
    pub others: Vec<String>,
}

/// Loads the guard in one transaction, or updates a loaded one to these rules; live elements stay
/// as they are. Works in the calling thread's network namespace. May wait. Fails if another gateway
/// uses the table, or if the table is somebody else's. TCP sessions older than the guard stall
/// until their source has a grant.
pub fn start(rules: &GuardRules) -> Result<Started, Fault> {
    let plan = rules.plan()?;
    let authors = Authors::default();
    let program = NftProgram::new(&rules.firewall.nft)?.with(&authors);
    let mut netlink = Netlink::open()?;
    conntrack::can_cut(&mut netlink, &plan)?;
    let owner = TableClaim::claim(plan.table())?;
    tables::check_is_ours(&mut netlink, plan.table())?;
    let mut kept = Netlink::open()?;
    authors.add(kept.port());
    let refresh = elements::probe(&mut kept);
    let watch = TableWatch::open(plan.table(), &authors, Some(kept.port()))?;
    let link = NftLink {
        netlink: kept,
        sets: Sets::new(&plan, refresh),
        table: plan.table().to_owned(),
        _owner: owner,
    };
    let loaded = load(&program, &mut netlink, &plan, &authors)?;
    let connections = Arc::new(Mutex::new(GrantedConnections::open(&plan)?));
    let mut loaded = LoadedGuard { program, plan, loaded, authors, netlink };
    let elements = loaded.elements()?;
    let others = other_guards(&mut loaded.netlink, loaded.plan.table())?;
    let guard = NftGuard { loaded: Arc::new(Mutex::new(loaded)), connections };
    Ok(Started { link, guard, watch, elements, others })
}

/// The half for the poll loop: one open netlink socket.
pub struct NftLink {
    netlink: Netlink,
    table: String,
    sets: Sets,
    _owner: TableClaim,
}

impl Firewall for NftLink {
    fn apply(&mut self, changes: &[Change]) -> Result<(), Fault> {
        self.sets.apply(&mut self.netlink, changes)
    }

    fn remaining(&mut self, element: &Element) -> Result<Option<u64>, Fault> {
        self.sets.remaining(&mut self.netlink, element)
    }

    fn is_there(&mut self) -> Result<bool, Fault> {
        Ok(tables::get_table(&mut self.netlink, &self.table)?.is_some())
    }

    fn use_rules(&mut self, rules: &GuardRules) {
        // The rules were loaded, so they have a plan.
        if let Ok(plan) = rules.plan() {
            self.sets.follow(&plan);
        }
    }
}

/// The half for other threads. Clones share the same guard. Each task waits for the one before, but
/// those about connections wait for no task that runs nft.
#[derive(Clone)]
pub struct NftGuard {
    loaded: Arc<Mutex<LoadedGuard>>,
    connections: Arc<Mutex<GrantedConnections>>,
}

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
        let lock_guard = || self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let lock_connections = || self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        match task {
            GuardTask::Load(rules) => {
                let mut guard = lock_guard();
                let report = guard.load(&rules)?;
                lock_connections().follow(&guard.plan);
                Ok(report)
            }
            GuardTask::Verify(rules) => {
                lock_guard().verify(&rules)?;
                Ok(GuardReport::Verified)
            }
            GuardTask::Repair => lock_guard().repair(),
            GuardTask::Check => {
                let mut guard = lock_guard();
                let sound = guard.is_sound()?;
                let LoadedGuard { netlink, plan, .. } = &mut *guard;
                let others = other_guards(netlink, plan.table())?;
                Ok(GuardReport::Checked { sound, others })
            }
            GuardTask::Unload => {
                let guard = lock_guard();
                guard.program.load(&guard.plan.text_off())?;
                Ok(GuardReport::Unloaded)
            }
            GuardTask::Standing(elements) => {
                Ok(GuardReport::Standing(lock_connections().stands(&elements)?))
            }
            GuardTask::Cut(elements) => {
                lock_connections().cut(&elements)?;
                Ok(GuardReport::Cut)
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
        conntrack::can_cut(&mut self.netlink, &plan)?;
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

    fn elements(&mut self) -> Result<BTreeMap<Element, u64>, Fault> {
        elements::list(&mut self.netlink, &self.plan)
    }
}

/// The guard's text for a file that nftables.conf includes after its flush. It contains no grants.
pub fn print_ruleset(rules: &GuardRules) -> Result<String, Fault> {
    Ok(rules.plan()?.text())
}

/// Removes the guard with its grants, which opens the guarded ports. Fails if a gateway uses the
/// table.
pub fn unload(rules: &GuardRules) -> Result<(), Fault> {
    let plan = rules.plan()?;
    let _owner = TableClaim::claim(plan.table())?;
    tables::check_is_ours(&mut Netlink::open()?, plan.table())?;
    NftProgram::new(&rules.firewall.nft)?.load(&plan.text_off())
}

/// Applies the changes of grants while no gateway runs, as far as their sets exist, and cuts
/// connections. Does nothing if there is no guard.
pub fn change_without_gateway(rules: &GuardRules, changes: &[Change]) -> Result<(), Fault> {
    let table = &rules.firewall.table;
    let mut netlink = Netlink::open()?;
    tables::check_is_ours(&mut netlink, table)?;
    let names = tables::sets(&mut netlink, table)?.into_iter().map(|(name, _)| name);
    let sets = Sets::named(table, names.collect());
    let possible: Vec<Change> =
        changes.iter().filter(|change| sets.has(change.element())).copied().collect();
    sets.apply(&mut netlink, &possible)?;
    let mut cut = BTreeSet::new();
    for change in changes {
        if let Change::Cut { element, .. } = change {
            cut.insert(*element);
        }
    }
    if cut.is_empty() {
        return Ok(());
    }
    GrantedConnections::open(&rules.plan()?)?.cut(&cut)
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

/// Reads the state and changes nothing. Finds the trial under way by itself.
pub fn look_at(rules: &GuardRules) -> Result<GuardState, Fault> {
    let trial = trial_under_way(rules)?;
    let plan = GuardRules { trial, ..rules.clone() }.plan()?;
    let mut netlink = Netlink::open()?;
    let others = other_guards(&mut netlink, plan.table())?;
    let program = NftProgram::new(&rules.firewall.nft)?;
    let Some(found) = LoadedRuleset::read(&program.list_all()?, plan.table())? else {
        return Ok(GuardState { misfit: None, dropped: BTreeMap::new(), others });
    };
    let misfit = match tables::check_is_ours(&mut netlink, plan.table()) {
        Ok(()) => found.misfit(&plan),
        Err(foreign) => Some(foreign.what),
    };
    Ok(GuardState { misfit: Some(misfit), dropped: found.dropped(), others })
}

/// True if our table is in the kernel, whatever it contains.
pub fn is_there(rules: &GuardRules) -> Result<bool, Fault> {
    let plan = rules.plan()?;
    Ok(tables::get_table(&mut Netlink::open()?, plan.table())?.is_some())
}

/// The end of the trial that the guard in the kernel is on, `Boot(0)` if its time is over; `None`
/// without a guard, or if it is not on trial. A trial of another boot, which a saved ruleset has
/// brought back, is none.
pub fn trial_under_way(rules: &GuardRules) -> Result<Option<Boot>, Fault> {
    let plan = rules.plan()?;
    let mut netlink = Netlink::open()?;
    let sets = tables::sets(&mut netlink, plan.table())?;
    let Some((set, _)) = sets.iter().find(|(name, _)| is_set_of_this_boot(name)) else {
        return Ok(None);
    };
    let left = elements::times_left(&mut netlink, plan.table(), set)?;
    let now = clock::now().boot;
    Ok(left.map(|left| match left.into_iter().max() {
        Some(millis) => now.plus_nanos(millis * 1_000_000),
        None => Boot(0),
    }))
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
    let trial = plan.trial_left(clock::now().boot);
    let anew_text = plan.text_anew() + &trial;
    if anew {
        return program.load(&anew_text);
    }
    let stale = tables::stale(netlink, plan)?;
    let text = plan.text_without(&stale.chains, &stale.sets) + &trial;
    let Err(fault) = program.load(&text) else { return Ok(()) };
    // A table that conflicts with ours (a chain without its hook, a set of another type) refuses
    // the change. Replace it then; the grants are put back afterwards.
    program.load(&anew_text).map_err(|_| fault)
}
