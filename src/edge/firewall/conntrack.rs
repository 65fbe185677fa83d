//! Connections that the guard let in, as connection tracking knows them: listed, and cut. See
//! `ruleset` for what the kernel does with the next packet of a connection that was cut.
//!
//! A connection passes the guard by a bit of ours in its conntrack mark. To cut it is to take that
//! bit away and leave the other one, by which it stays ours to drop also where an admin's own
//! firewall decides about the rest. Its entry is not deleted: what a server still sends would make
//! a new one, under which the answers to it count as established there. Both ends are left waiting,
//! as on a line that was cut. Entries of others are never touched.

use netlink_packet_netfilter::conntrack::ConntrackMessage;
use nix::errno::Errno;

use super::netlink::Netlink;
use super::ruleset::PacketMarks;
use super::tracked::{Connection, MARK, MARK_MASK, Tracked, other, refused, tracked};
use crate::core::grants::{Element, Flow};
use crate::core::types::{Fault, Port, Source};

/// How often we look again whether a packet that was on its way has brought a connection back.
const LOOKS: usize = 4;

/// The connections that the guard let in, or is about to.
pub(super) fn flows(netlink: &mut Netlink, marks: PacketMarks) -> Result<Vec<Flow>, Fault> {
    Ok(ours(netlink, marks)?.into_iter().map(|tracked| flow(&tracked.connection)).collect())
}

/// Ends those that one of `elements` could have let in.
pub(super) fn cut(
    netlink: &mut Netlink,
    marks: PacketMarks,
    elements: &[Element],
) -> Result<(), Fault> {
    for _ in 0..LOOKS {
        let mut is_done = true;
        for Tracked { connection, family, mut name, .. } in ours(netlink, marks)? {
            let flow = flow(&connection);
            if !elements.iter().any(|element| element.lets_in(&flow)) {
                continue;
            }
            is_done = false;
            // The kernel clears the bits of the mask and turns those of the mark.
            name.extend([other(MARK, marks.pending), other(MARK_MASK, marks.ours())]);
            match netlink.order(family, &ConntrackMessage::New(name)) {
                // It has ended by itself.
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

/// Those with the bit that a pending connection bears too. The kernel filters: that costs little.
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
