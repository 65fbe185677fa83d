//! Lists and cuts the connections that the guard let in, as connection tracking knows them. See
//! `ruleset` for the next packet of a cut connection.
//!
//! A connection passes the guard by our `granted` bit in its conntrack mark. A cut clears that bit
//! and leaves `pending`, so that the guard still drops the connection in mark mode, where the
//! admin's own firewall decides about the rest. The entry is not deleted: the server's next packet
//! would create a new one, and then the client's replies would count as established. Both ends keep
//! waiting, as on a broken line. Entries of other programs are never touched.

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::netlink::Netlink;
use super::ruleset::{GuardPlan, PacketMarks};
use super::tracked::{MARK, MARK_MASK, NEW, Tracked, message, refused, tracked};
use crate::core::grants::element::{letting_in, spans_of};
use crate::core::grants::{Element, Flow};
use crate::core::service::{DisconnectPolicy, Service};
use crate::core::types::{Fault, Port, Source};

/// The most passes over the list, in case a packet in flight has restored a connection's mark.
const LOOKS: usize = 4;

/// The connections that the guard let in. A list of them may be long: not for the poll loop.
pub(super) struct GrantedConnections {
    netlink: Netlink,
    marks: PacketMarks,
    services: Vec<Service>,
    /// The services of the rules before, whose grants may still have connections.
    services_before: Vec<Service>,
}

impl GrantedConnections {
    /// Works in the calling thread's network namespace.
    pub(super) fn open(plan: &GuardPlan) -> Result<GrantedConnections, Fault> {
        Ok(GrantedConnections {
            netlink: Netlink::open()?,
            marks: plan.marks(),
            services: plan.services().to_vec(),
            services_before: Vec::new(),
        })
    }

    /// Follows a reload.
    pub(super) fn follow(&mut self, plan: &GuardPlan) {
        self.marks = plan.marks();
        if self.services != plan.services() {
            self.services_before = std::mem::replace(&mut self.services, plan.services().to_vec());
        }
    }

    /// Those of `elements` under which a connection may stand. A connection that was translated to
    /// another port of this machine counts with either port.
    pub(super) fn stands(
        &mut self, elements: &BTreeSet<Element>,
    ) -> Result<BTreeSet<Element>, Fault> {
        let spans = spans_of(elements);
        let services = &self.services;
        let standing = |one: Tracked| {
            let flows = as_flows(&one).into_iter();
            let found = flows.flat_map(|flow| letting_in(elements, &spans, services, &flow));
            Some(found.collect::<Vec<Element>>())
        };
        let found = tracked(&mut self.netlink, self.marks.granted, standing)?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Ends the connections that one of `elements` could have let in: by the ports of the services
    /// in force, or of those before.
    pub(super) fn cut(&mut self, elements: &BTreeSet<Element>) -> Result<(), Fault> {
        for _ in 0..LOOKS {
            let found = self.let_in_by(elements)?;
            if found.is_empty() {
                break;
            }
            for one in found {
                // The kernel clears the bits of the mask and toggles those of the mark.
                let body = one.name.u32(MARK, self.marks.pending).u32(MARK_MASK, self.marks.ours());
                match self.netlink.get(&message(NEW, 0, one.family, body)) {
                    // The connection has ended.
                    Ok(_) | Err(Errno::ENOENT) => {}
                    Err(error) => return Err(refused(error)),
                }
            }
        }
        Ok(())
    }

    fn let_in_by(&mut self, elements: &BTreeSet<Element>) -> Result<Vec<Tracked>, Fault> {
        let spans = spans_of(elements);
        let rules = [&self.services, &self.services_before];
        let fitting = |one: Tracked| {
            let lets_in = |flow: &Flow| {
                let found = |services: &&Vec<Service>| {
                    !letting_in(elements, &spans, services, flow).is_empty()
                };
                rules.iter().any(found)
            };
            as_flows(&one).iter().any(lets_in).then_some(one)
        };
        tracked(&mut self.netlink, self.marks.granted, fitting)
    }
}

/// Checks in advance that connections can be cut, if a service asks for it: a revocation would be
/// too late to find out.
pub(super) fn can_cut(netlink: &mut Netlink, plan: &GuardPlan) -> Result<(), Fault> {
    if plan.services().iter().any(|service| service.cut != DisconnectPolicy::Never) {
        tracked(netlink, plan.marks().granted, |_| None::<Tracked>)?;
    }
    Ok(())
}

/// The flow by the port that was asked for, and by the one that answers.
fn as_flows(tracked: &Tracked) -> Vec<Flow> {
    let connection = tracked.connection;
    let mut ports = vec![connection.to.port(), tracked.answering_port];
    ports.dedup();
    let flow = |number| Flow {
        source: Source::new(connection.from.ip()),
        source_port: connection.from.port(),
        port: Port { proto: connection.proto, number },
    };
    ports.into_iter().map(flow).collect()
}
