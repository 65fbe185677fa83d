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
use super::ruleset::PacketMarks;
use super::tracked::{MARK, MARK_MASK, NEW, Tracked, message, refused, tracked};
use crate::core::grants::element::standing;
use crate::core::grants::{Element, Flow};
use crate::core::service::Service;
use crate::core::types::{Fault, Port, Source};

/// The most passes over the list, in case a packet in flight has restored a connection's mark.
const LOOKS: usize = 4;

/// The connections that the guard let in or is about to let in. A connection that was translated
/// to another port of this machine is listed with either port.
pub(super) fn flows(netlink: &mut Netlink, marks: PacketMarks) -> Result<Vec<Flow>, Fault> {
    Ok(tracked(netlink, marks.granted)?.iter().flat_map(as_flows).collect())
}

/// Those of `elements` under which a connection may stand.
pub(super) fn stands(
    netlink: &mut Netlink, marks: PacketMarks, services: &[Service], elements: &BTreeSet<Element>,
) -> Result<BTreeSet<Element>, Fault> {
    Ok(standing(elements, services, flows(netlink, marks)?))
}

/// Ends the connections that one of `elements` could have let in. Each of `rules` are the services
/// of one configuration: their ports tell whose connection it is.
pub(super) fn cut(
    netlink: &mut Netlink, marks: PacketMarks, rules: [&[Service]; 2], elements: &[Element],
) -> Result<(), Fault> {
    let elements: BTreeSet<Element> = elements.iter().copied().collect();
    for _ in 0..LOOKS {
        let mut is_done = true;
        for one in tracked(netlink, marks.granted)? {
            let fits =
                |services: &&[Service]| !standing(&elements, services, as_flows(&one)).is_empty();
            if !rules.iter().any(fits) {
                continue;
            }
            is_done = false;
            // The kernel clears the bits of the mask and toggles those of the mark.
            let body = one.name.u32(MARK, marks.pending).u32(MARK_MASK, marks.ours());
            match netlink.get(&message(NEW, 0, one.family, body)) {
                // The connection has ended.
                Ok(_) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(refused(error)),
            }
        }
        if is_done {
            break;
        }
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
