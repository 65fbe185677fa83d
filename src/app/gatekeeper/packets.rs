//! The counters of packets, made so that they add up: each packet that reached this machine for us
//! is in exactly one of them. See `app::admin` for how they are shown.

use crate::app::admin::PacketCounts;
use crate::core::keyring::{Day, FilterDrops};
use crate::core::knock::Status;
use crate::core::reply::Reply;
use crate::core::types::{Counters, Reject};
use crate::edge::gatekeeper_pipe::Tally;

/// The packets of one listener, or of several that are gone.
#[derive(Clone, Copy, Default)]
pub(super) struct ListenerPackets {
    /// Its last report.
    reported: Tally,
    /// The knocks that it handed over before that.
    handed_before: u64,
    /// All knocks that it handed over.
    handed: u64,
}

impl ListenerPackets {
    /// Counts a knock that it handed over.
    pub(super) fn knock(&mut self) {
        self.handed = self.handed.saturating_add(1);
    }

    pub(super) fn report(&mut self, tally: Tally) {
        self.reported = tally;
        self.handed_before = self.handed;
    }

    /// The report as it must be by now: a knock that came since then had waited, or was read since
    /// then.
    fn tally(&self) -> Tally {
        let since = self.handed.saturating_sub(self.handed_before);
        let waited = since.min(self.reported.waiting);
        Tally {
            read: self.reported.read.saturating_add(since - waited),
            waiting: self.reported.waiting - waited,
            ..self.reported
        }
    }

    /// Adds those of another listener.
    pub(super) fn add(&mut self, other: &ListenerPackets) {
        let (mine, other_tally) = (self.tally(), other.tally());
        let mut rejected = mine.rejected;
        for reject in Reject::ALL {
            rejected.add(reject, other_tally.rejected.of(reject));
        }
        self.reported = Tally {
            rejected,
            filtered: mine.filtered.plus(other_tally.filtered),
            holds: false,
            xdp: mine.xdp.saturating_add(other_tally.xdp),
            read: mine.read.saturating_add(other_tally.read),
            lost: mine.lost.saturating_add(other_tally.lost),
            doors: mine.doors.saturating_add(other_tally.doors),
            waiting: mine.waiting.saturating_add(other_tally.waiting),
        };
        self.handed = self.handed.saturating_add(other.handed);
        self.handed_before = self.handed;
    }

    /// The listener is gone: what waited in it gets no answer.
    pub(super) fn ended(&self) -> ListenerPackets {
        let mut reported = self.tally();
        reported.rejected.add(Reject::Dropped, std::mem::take(&mut reported.waiting));
        ListenerPackets { reported, handed: self.handed, handed_before: self.handed }
    }

    /// Packets that XDP dropped. They are in the other numbers.
    pub(super) fn xdp(&self) -> u64 {
        self.reported.xdp
    }

    /// Packets that the kernel dropped for want of room.
    pub(super) fn lost(&self) -> u64 {
        self.reported.lost
    }
}

/// How the knocks ended that listeners handed over: each in exactly one way.
#[derive(Default)]
pub(super) struct KnockEnds {
    rejected: Counters,
    granted: u64,
    closed: u64,
    probes: u64,
    time: u64,
    joined: u64,
}

impl KnockEnds {
    /// Counts a knock that ends without what it asked for.
    pub(super) fn reject(&mut self, reject: Reject) {
        self.rejected.count(reject);
    }

    /// Counts a knock that ends with this reply. For [`Status::Trouble`] the caller knows more, and
    /// counts it with [`KnockEnds::reject`].
    pub(super) fn answered(&mut self, reply: &Reply) {
        let counter = match reply.status {
            Status::Granted => &mut self.granted,
            Status::Closed => &mut self.closed,
            Status::Observed => &mut self.probes,
            Status::Enrolled | Status::Pending => &mut self.joined,
            Status::Clock if reply.handshake.day == Day::Unknown => &mut self.time,
            Status::Clock | Status::Challenge => return self.reject(Reject::Clock),
            Status::Address => return self.reject(Reject::Address),
            Status::Denied | Status::Full | Status::Taken => return self.reject(Reject::Policy),
            Status::Trouble => return,
        };
        *counter = counter.saturating_add(1);
    }

    /// All knocks that have ended.
    pub(super) fn sum(&self) -> u64 {
        let KnockEnds { rejected, granted, closed, probes, time, joined } = self;
        [granted, closed, probes, time, joined]
            .into_iter()
            .fold(rejected.sum(), |sum, number| sum.saturating_add(*number))
    }

    /// Everything together. What was handed over and has no answer yet waits too.
    pub(super) fn counts(&self, packets: &ListenerPackets) -> PacketCounts {
        let tally = packets.tally();
        let undecided = packets.handed.saturating_sub(self.sum());
        let mut filtered = Counters::default();
        let FilterDrops { unknown_tag, length, client_mac, copies, quota, first_step } =
            tally.filtered;
        filtered.add(Reject::UnknownTag, unknown_tag);
        filtered.add(Reject::UnknownTag, tally.xdp);
        filtered.add(Reject::Length, length);
        filtered.add(Reject::ClientMac, client_mac);
        filtered.add(Reject::SeenBefore, copies);
        filtered.add(Reject::Quota, quota);
        filtered.add(Reject::FirstStep, first_step);
        let mut all = filtered;
        for reject in Reject::ALL {
            all.add(reject, self.rejected.of(reject));
            all.add(reject, tally.rejected.of(reject));
        }
        PacketCounts {
            received: tally.read.saturating_add(tally.lost).saturating_add(filtered.sum()),
            lost: tally.lost,
            granted: self.granted,
            closed: self.closed,
            probes: self.probes,
            time: self.time,
            joined: self.joined,
            doors: tally.doors,
            waiting: tally.waiting.saturating_add(undecided),
            rejected: by_name(&all),
            filtered: by_name(&filtered),
        }
    }

    #[cfg(test)]
    pub(super) fn of(&self, reject: Reject) -> u64 {
        self.rejected.of(reject)
    }
}

/// Those that are not zero.
fn by_name(counters: &Counters) -> Vec<(String, u64)> {
    let all = Reject::ALL.map(|reject| (reject.name().to_owned(), counters.of(reject)));
    all.into_iter().filter(|(_, number)| *number > 0).collect()
}
