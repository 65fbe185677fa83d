//! The guard in the kernel: loaded in one transaction, read back, kept as it was loaded, its grants
//! put in and taken out. Each of these steps is left to the file of its name.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};

use super::conntrack;
use super::elements;
use super::loaded_ruleset::{self, LoadedRuleset};
use super::netlink::Netlink;
use super::nft::NftProgram;
use super::ruleset::GuardPlan;
use super::table_claim::TableClaim;
use super::watch::{MOST, TableChange, TableWatch};
use super::{Firewall, Repair};
use crate::config::{self, KnockSettings};
use crate::core::grants::{Change, Element, Flow};
use crate::core::service::{DisconnectPolicy, GrantKind, Service};
use crate::core::types::Fault;

/// How often the guard is loaded again because somebody else changed it in the meantime.
const TRIES: usize = 8;

/// The real firewall.
pub struct NftFirewall {
    program: NftProgram,
    plan: GuardPlan,
    loaded: LoadedRuleset,
    netlink: Netlink,
    watch: TableWatch,
    /// Who changed the table while it was being loaded: put right already, and still to be told.
    noticed: Vec<TableChange>,
    /// An admin has taken the guard away: nothing is loaded, put back or granted.
    down: bool,
    _owner: TableClaim,
}

impl NftFirewall {
    /// Loads the guard, or brings a guard that stands up to these settings, in one transaction;
    /// live elements stay as they are. Works in the network namespace of the calling thread. Follow
    /// it with [`Firewall::restore`].
    ///
    /// A TCP session that was open before the first load stands still until its source has a time
    /// grant; then it goes on.
    pub fn start(
        settings: &config::FirewallSettings,
        services: &[Service],
        knock: &KnockSettings,
    ) -> Result<NftFirewall, Fault> {
        let plan = GuardPlan::new(settings, services, knock)?;
        let program = NftProgram::new(&settings.nft)?;
        let mut netlink = Netlink::open()?;
        can_cut(&mut netlink, &plan, services)?;
        let _owner = TableClaim::claim(plan.table())?;
        let mut watch = TableWatch::open(plan.table(), netlink.port())?;
        let mut noticed = Vec::new();
        let loaded = load(&program, &plan, &mut watch, &mut noticed)?;
        Ok(NftFirewall { program, plan, loaded, netlink, watch, noticed, down: false, _owner })
    }

    /// As [`NftFirewall::start`], with new settings, the table's name excepted. On a fault the old
    /// guard stands as before.
    pub fn reload(
        &mut self,
        settings: &config::FirewallSettings,
        services: &[Service],
        knock: &KnockSettings,
    ) -> Result<(), Fault> {
        let plan = GuardPlan::new(settings, services, knock)?;
        let program = NftProgram::new(&settings.nft)?;
        if plan.table() != self.plan.table() {
            return Err(Fault::new(
                "firewall.table cannot change while toctocd runs",
                "restart toctocd",
            ));
        }
        can_cut(&mut self.netlink, &plan, services)?;
        if !self.down {
            self.loaded = load(&program, &plan, &mut self.watch, &mut self.noticed)?;
        }
        (self.plan, self.program) = (plan, program);
        Ok(())
    }

    /// Takes the guard away, with all grants, and keeps it away until [`NftFirewall::stand_up`].
    pub fn disable(&mut self) -> Result<(), Fault> {
        self.watch.expect(self.program.load(&self.plan.text_off())?);
        self.down = true;
        Ok(())
    }

    /// Loads the guard that an admin had taken away. Follow it with [`Firewall::restore`].
    pub fn enable(&mut self) -> Result<(), Fault> {
        self.loaded = load(&self.program, &self.plan, &mut self.watch, &mut self.noticed)?;
        self.down = false;
        Ok(())
    }

    /// Whether an admin has taken the guard away.
    pub fn is_disabled(&self) -> bool {
        self.down
    }

    /// The descriptor to poll for reading; then call [`NftFirewall::look`].
    pub fn watch_fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    /// Who else changed our table since the last look. If anybody did, log it and call
    /// [`Firewall::restore`]. Never waits.
    pub fn take_changes(&mut self) -> Vec<TableChange> {
        let mut noticed = std::mem::take(&mut self.noticed);
        noticed.extend(self.watch.look());
        noticed
    }

    /// Packets dropped so far, by chain of the guard: `opening` and `datagram` had no grant,
    /// `stream` belonged to no granted connection, `guard` were for the silent knock port. Empty
    /// without a guard; begins at 0 with each load.
    pub fn dropped(&self) -> Result<BTreeMap<String, u64>, Fault> {
        self.program
            .list(self.plan.table())?
            .map_or_else(|| Ok(BTreeMap::new()), |json| loaded_ruleset::dropped(&json))
    }
}

impl AsFd for NftFirewall {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.fd()
    }
}

impl Firewall for NftFirewall {
    fn apply(&mut self, changes: &[Change]) -> Result<(), Fault> {
        let applied = match self.down {
            true => nothing_to_grant(changes),
            false => elements::apply(&mut self.netlink, self.plan.table(), changes),
        };
        let cuts = changes.iter().filter(|change| matches!(change, Change::Cut { .. }));
        let cuts: Vec<Element> = cuts.map(|change| *change.element()).collect();
        let cut = if cuts.is_empty() {
            Ok(())
        } else {
            conntrack::cut(&mut self.netlink, self.plan.marks(), &cuts)
        };
        applied.and(cut)
    }

    fn flows(&mut self) -> Result<Vec<Flow>, Fault> {
        conntrack::flows(&mut self.netlink, self.plan.marks())
    }

    fn list(&mut self) -> Result<Vec<(Element, u64)>, Fault> {
        if self.down {
            return Ok(Vec::new());
        }
        elements::list(&mut self.netlink, self.plan.table())
    }

    fn remaining(&mut self, element: &Element) -> Result<Option<u64>, Fault> {
        elements::remaining(&mut self.netlink, self.plan.table(), element)
    }

    fn guard_is_up(&mut self) -> Result<bool, Fault> {
        Ok(stands(&self.program, &self.plan)?.is_some_and(|standing| standing == self.loaded))
    }

    fn restore(&mut self, live: &[Change]) -> Result<Repair, Fault> {
        if self.down {
            return Ok(Repair::default());
        }
        let reloaded = !self.guard_is_up()?;
        if reloaded {
            self.loaded = load(&self.program, &self.plan, &mut self.watch, &mut self.noticed)?;
        }
        let standing = self.list()?;
        let changes = reconcile(&standing, live);
        self.apply(&changes)?;
        let there: HashSet<Element> = standing.iter().map(|(element, _)| *element).collect();
        let is_removal = |change: &&Change| matches!(change, Change::Remove { .. });
        let is_missing = |change: &&Change| matches!(change, Change::Set { element, .. } if !there.contains(element));
        Ok(Repair {
            reloaded,
            put_back: changes.iter().filter(is_missing).count(),
            removed: changes.iter().filter(is_removal).count(),
        })
    }
}

/// While the guard is off: what is taken away is gone already, and what is granted would be a lie.
fn nothing_to_grant(changes: &[Change]) -> Result<(), Fault> {
    if changes.iter().any(|change| matches!(change, Change::Set { .. })) {
        return Err(Fault::new(
            "the guard is off: there is nothing to grant",
            "`toctocd guard on` puts it up",
        ));
    }
    Ok(())
}

/// Whether connections can be cut, if they are to be: a revocation is no moment to find out.
fn can_cut(netlink: &mut Netlink, plan: &GuardPlan, services: &[Service]) -> Result<(), Fault> {
    let wanted = services.iter().any(|service| service.cut != DisconnectPolicy::Never);
    if wanted { conntrack::flows(netlink, plan.marks()).map(drop) } else { Ok(()) }
}

/// The text of the guard, fit for a file that nftables.conf includes after its flush. It opens
/// nothing.
pub fn print_ruleset(
    settings: &config::FirewallSettings,
    services: &[Service],
    knock: &KnockSettings,
) -> Result<String, Fault> {
    Ok(GuardPlan::new(settings, services, knock)?.text())
}

/// Takes the guard away where no gateway keeps it, all grants with it, and so opens what it
/// guarded.
pub fn unload(
    settings: &config::FirewallSettings,
    services: &[Service],
    knock: &KnockSettings,
) -> Result<(), Fault> {
    let plan = GuardPlan::new(settings, services, knock)?;
    let _owner = TableClaim::claim(plan.table())?;
    NftProgram::new(&settings.nft)?.load(&plan.text_off()).map(drop)
}

/// How the guard stands, asked by somebody who does not keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardState {
    /// `None` if there is no such table; else what is not as these settings say, if anything.
    pub misfit: Option<Option<String>>,
    /// Packets dropped, by chain.
    pub dropped: BTreeMap<String, u64>,
}

/// Looks, and changes nothing.
pub fn look_at(
    settings: &config::FirewallSettings,
    services: &[Service],
    knock: &KnockSettings,
) -> Result<GuardState, Fault> {
    let plan = GuardPlan::new(settings, services, knock)?;
    let Some(json) = NftProgram::new(&settings.nft)?.list(plan.table())? else {
        return Ok(GuardState { misfit: None, dropped: BTreeMap::new() });
    };
    Ok(GuardState {
        misfit: Some(LoadedRuleset::read(&json)?.misfit(&plan)),
        dropped: loaded_ruleset::dropped(&json)?,
    })
}

/// Loads the guard and reads it back until what stands is what was loaded: nobody else has changed
/// the table in between, and it fits the plan. Only that is what `guard_is_up` compares with from
/// then on; who did change it is added to `noticed`.
fn load(
    program: &NftProgram,
    plan: &GuardPlan,
    watch: &mut TableWatch,
    noticed: &mut Vec<TableChange>,
) -> Result<LoadedRuleset, Fault> {
    let (mut misfit, mut anew) = (None, false);
    for _ in 0..TRIES {
        note(noticed, watch.look());
        watch.expect(load_once(program, plan, anew)?);
        let found = stands(program, plan)?;
        let others = watch.look();
        let settled = others.is_empty();
        note(noticed, others);
        misfit = match found {
            Some(standing) => match standing.misfit(plan) {
                None if settled => return Ok(standing),
                other => other,
            },
            None => Some("it is not there".to_owned()),
        };
        // What our text leaves as it is, a chain that is not ours, goes with the table.
        anew = settled;
    }
    let why = misfit.unwrap_or_else(|| "somebody else changes it again and again".to_owned());
    Err(Fault::new(
        format!("the guard was loaded {TRIES} times and does not stand as it was loaded: {why}"),
        format!(
            "see what else changes nftables: `nft monitor`, `nft list table inet {}`",
            plan.table()
        ),
    ))
}

fn note(noticed: &mut Vec<TableChange>, others: Vec<TableChange>) {
    for one in others {
        if !noticed.contains(&one) && noticed.len() < MOST {
            noticed.push(one);
        }
    }
}

/// One transaction, `anew` without the elements that stand. Gives the pid under which the kernel
/// announces it.
fn load_once(program: &NftProgram, plan: &GuardPlan, anew: bool) -> Result<u32, Fault> {
    if anew {
        return program.load(&plan.text_anew());
    }
    program.load(&plan.text()).or_else(|fault| {
        // A table of that name that is not as ours ever was (an older version's set, a chain
        // without its hook) refuses the change. Only replacing it helps, still in one transaction;
        // `restore` brings the grants back.
        program.load(&plan.text_anew()).map_err(|_| fault)
    })
}

fn stands(program: &NftProgram, plan: &GuardPlan) -> Result<Option<LoadedRuleset>, Fault> {
    program.list(plan.table())?.map(|json| LoadedRuleset::read(&json)).transpose()
}

/// What takes the kernel from `standing` to `live`.
///
/// A one-connection element that is not there is not put back: whether it was spent or flushed
/// cannot be told, and a second connection is worse than a second knock.
fn reconcile(standing: &[(Element, u64)], live: &[Change]) -> Vec<Change> {
    let mut wanted = HashSet::new();
    let mut changes = Vec::new();
    for change in live {
        if let Change::Set { element, .. } = change {
            wanted.insert(*element);
            if element.form == GrantKind::Time {
                changes.push(*change);
            }
        }
    }
    let extra = standing.iter().filter(|(element, _)| !wanted.contains(element));
    changes.extend(extra.map(|(element, _)| Change::Remove { element: *element }));
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
    fn restoring_writes_time_grants_removes_strangers_and_never_rearms_a_single_connection() {
        let [kept, lost, alien] = [1, 2, 3].map(|last| element(last, GrantKind::Time));
        let [once, spent] = [1, 2].map(|last| element(last, GrantKind::Once));
        let live = [kept, lost, once, spent].map(|element| Change::Set { element, millis: 5000 });
        let standing = [(kept, 4000), (alien, 9000), (once, 4000)];
        let expected = vec![
            Change::Set { element: kept, millis: 5000 },
            Change::Set { element: lost, millis: 5000 },
            Change::Remove { element: alien },
        ];
        assert_eq!(reconcile(&standing, &live), expected);
    }
}
