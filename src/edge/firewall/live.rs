//! The guard in the kernel: loaded in one transaction, read back, kept as it was loaded, its grants put in and taken out.
//! Each of these steps is left to the file of its name.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};

use super::elements;
use super::netlink::Netlink;
use super::nft::Program;
use super::ruleset::Plan;
use super::standing::{self, Standing};
use super::watch::{Noticed, Watch};
use super::{Firewall, Repair};
use crate::config::{self, Knock};
use crate::core::grants::{Change, Element};
use crate::core::service::{Form, Service};
use crate::core::types::Fault;

/// The real firewall.
pub struct Nft {
    program: Program,
    plan: Plan,
    loaded: Standing,
    netlink: Netlink,
    watch: Watch,
}

impl Nft {
    /// Loads the guard, or brings a guard that stands up to these settings, in one transaction; live elements stay as they are.
    /// Works in the network namespace of the calling thread. Follow it with [`Firewall::restore`].
    ///
    /// A TCP session that was open before the first load stands still until its source has a time grant; then it goes on.
    pub fn start(settings: &config::Firewall, services: &[Service], knock: &Knock) -> Result<Nft, Fault> {
        let plan = Plan::new(settings, services, knock)?;
        let program = Program::new(&settings.nft)?;
        let netlink = Netlink::open()?;
        let mut watch = Watch::open(plan.table(), netlink.port())?;
        let loaded = load(&program, &plan, &mut watch)?;
        Ok(Nft { program, plan, loaded, netlink, watch })
    }

    /// As [`Nft::start`], with new settings, the table's name excepted. On a fault the old guard stands as before.
    pub fn reload(&mut self, settings: &config::Firewall, services: &[Service], knock: &Knock) -> Result<(), Fault> {
        let plan = Plan::new(settings, services, knock)?;
        let program = Program::new(&settings.nft)?;
        if plan.table() != self.plan.table() {
            return Err(Fault::new("firewall.table cannot change while toctocd runs", "restart toctocd"));
        }
        self.loaded = load(&program, &plan, &mut self.watch)?;
        (self.plan, self.program) = (plan, program);
        Ok(())
    }

    /// The descriptor to poll for reading; then call [`Nft::look`].
    pub fn watch_fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    /// Who else changed our table since the last look. If anybody did, log it and call [`Firewall::restore`]. Never waits.
    pub fn look(&mut self) -> Vec<Noticed> {
        self.watch.look()
    }

    /// Packets dropped so far, by chain of the guard: `opening` and `datagram` had no grant, `stream` belonged to no granted
    /// connection, `guard` were for the silent knock port. Empty without a guard; begins at 0 with each load.
    pub fn dropped(&self) -> Result<BTreeMap<String, u64>, Fault> {
        self.program.list(self.plan.table())?.map_or_else(|| Ok(BTreeMap::new()), |json| standing::dropped(&json))
    }
}

impl AsFd for Nft {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.fd()
    }
}

impl Firewall for Nft {
    fn apply(&mut self, changes: &[Change]) -> Result<(), Fault> {
        elements::apply(&mut self.netlink, self.plan.table(), changes)
    }

    fn list(&mut self) -> Result<Vec<(Element, u64)>, Fault> {
        elements::list(&mut self.netlink, self.plan.table())
    }

    fn remaining(&mut self, element: &Element) -> Result<Option<u64>, Fault> {
        elements::remaining(&mut self.netlink, self.plan.table(), element)
    }

    fn guard_is_up(&mut self) -> Result<bool, Fault> {
        Ok(stands(&self.program, &self.plan)?.is_some_and(|standing| standing == self.loaded))
    }

    fn restore(&mut self, live: &[Change]) -> Result<Repair, Fault> {
        let reloaded = !self.guard_is_up()?;
        if reloaded {
            self.loaded = load(&self.program, &self.plan, &mut self.watch)?;
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

/// The text of the guard, fit for a file that nftables.conf includes after its flush. It opens nothing.
pub fn print_ruleset(settings: &config::Firewall, services: &[Service], knock: &Knock) -> Result<String, Fault> {
    Ok(Plan::new(settings, services, knock)?.text())
}

/// Takes the guard away, all grants with it, and so opens what it guarded.
pub fn unload(settings: &config::Firewall, services: &[Service], knock: &Knock) -> Result<(), Fault> {
    let plan = Plan::new(settings, services, knock)?;
    Program::new(&settings.nft)?.load(&plan.text_off()).map(drop)
}

fn load(program: &Program, plan: &Plan, watch: &mut Watch) -> Result<Standing, Fault> {
    let pid = program.load(&plan.text()).or_else(|fault| {
        // A table of that name that is not as ours ever was (an older version's set, a chain without its hook) refuses the
        // change. Only replacing it helps, still in one transaction; `restore` brings the grants back.
        program.load(&plan.text_anew()).map_err(|_| fault)
    })?;
    watch.expect(pid);
    let gone = || Fault::new("the guard was loaded and is not there", "see what else changes nftables");
    let standing = stands(program, plan)?.ok_or_else(gone)?;
    if standing.is_hooked() { Ok(standing) } else { Err(gone()) }
}

fn stands(program: &Program, plan: &Plan) -> Result<Option<Standing>, Fault> {
    program.list(plan.table())?.map(|json| Standing::read(&json)).transpose()
}

/// What takes the kernel from `standing` to `live`.
///
/// A one-connection element that is not there is not put back: whether it was spent or flushed cannot be told, and
/// a second connection is worse than a second knock.
fn reconcile(standing: &[(Element, u64)], live: &[Change]) -> Vec<Change> {
    let mut wanted = HashSet::new();
    let mut changes = Vec::new();
    for change in live {
        if let Change::Set { element, .. } = change {
            wanted.insert(*element);
            if element.form == Form::Time {
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

    fn element(last: u8, form: Form) -> Element {
        let source = Source::new(std::net::IpAddr::from([192, 0, 2, last]));
        Element { source, port: Port { proto: Proto::Tcp, number: 22 }, form }
    }

    #[test]
    fn restoring_writes_time_grants_removes_strangers_and_never_rearms_a_single_connection() {
        let [kept, lost, alien] = [1, 2, 3].map(|last| element(last, Form::Time));
        let [once, spent] = [1, 2].map(|last| element(last, Form::Once));
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
