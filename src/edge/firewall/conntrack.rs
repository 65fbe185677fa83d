//! Lists and cuts the connections that the guard let in, as connection tracking knows them. See
//! `ruleset` for the next packet of a cut connection.
//!
//! A connection passes the guard by our `granted` bit in its conntrack mark. A cut clears that bit
//! and leaves `pending`, so that the guard still drops the connection in mark mode, where the
//! admin's own firewall decides about the rest. The entry is not deleted: the server's next packet
//! would create a new one, and then the client's replies would count as established. Both ends keep
//! waiting, as on a broken line. Entries of other programs are never touched.

use netlink_packet_netfilter::conntrack::ConntrackMessage;
use nix::errno::Errno;

use super::netlink::Netlink;
use super::ruleset::PacketMarks;
use super::tracked::{Connection, MARK, MARK_MASK, Tracked, other, refused, tracked};
use crate::core::grants::{Element, Flow};
use crate::core::types::{Fault, Port, Source};

/// The most passes over the list, in case a packet in flight has restored a connection's mark.
const LOOKS: usize = 4;

/// The connections that the guard let in or is about to let in.
pub(super) fn flows(netlink: &mut Netlink, marks: PacketMarks) -> Result<Vec<Flow>, Fault> {
    Ok(ours(netlink, marks)?.into_iter().map(|tracked| flow(&tracked.connection)).collect())
}

/// Ends the connections that one of `elements` could have let in.
pub(super) fn cut(
    netlink: &mut Netlink, marks: PacketMarks, elements: &[Element],
) -> Result<(), Fault> {
    for _ in 0..LOOKS {
        let mut is_done = true;
        for Tracked { connection, family, mut name, .. } in ours(netlink, marks)? {
            let flow = flow(&connection);
            if !elements.iter().any(|element| element.lets_in(&flow)) {
                continue;
            }
            is_done = false;
            // The kernel clears the bits of the mask and toggles those of the mark.
            name.extend([other(MARK, marks.pending), other(MARK_MASK, marks.ours())]);
            match netlink.order(family, &ConntrackMessage::New(name)) {
                // The connection has ended.
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(refused(error)),
            }
        }
        if is_done {
            break;
        }
    }
    Ok(())
}

/// The connections with the `granted` bit, pending ones included. The kernel filters, which is
/// cheap.
fn ours(netlink: &mut Netlink, marks: PacketMarks) -> Result<Vec<Tracked>, Fault> {
    let filter = [other(MARK, marks.granted), other(MARK_MASK, marks.granted)];
    tracked(netlink, &filter)
}

fn flow(connection: &Connection) -> Flow {
    let Connection { from, to, proto } = *connection;
    Flow {
        source: Source::new(from.ip()),
        source_port: from.port(),
        port: Port { proto, number: to.port() },
    }
}
