//! The keys that one client shares with its gateway: docs/protocol.md, "Keys".
//!
//! A period is 32 days. Each period's secret gives that of the next, never of an earlier one. It
//! gives each day a wire secret, which the listener gets too, and a gate key, which it never gets.

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{FilterKey, Secret, derive, keyed16};
use crate::core::types::GatewayId;

/// Bytes of a tag, a client's pseudonym for one day.
pub const TAG: usize = 16;
/// Bytes of every MAC.
pub const MAC: usize = 16;
/// The listener has the keys of so many days of one client at a time: the one before its working
/// day, that day, the next one, and no day at all.
pub const SLOTS: usize = 4;

const GATE_MAC: &[u8] = b"toctoc v1 gate mac\0";
const RECEIPT_MAC: &[u8] = b"toctoc v1 receipt mac\0";

/// The day whose keys a knock uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Day {
    /// Whole UTC days since 1970, by the client's clock.
    Number(u32),
    /// For a client that does not know the day. These keys never change, so they only ask for the
    /// time.
    Unknown,
    /// For an invitation, which has no keys of days: these never change either, and only join.
    Invited,
}

impl Day {
    /// True if the tags of this day are unknown again by the time that a client uses those of
    /// `later`: a client's tags are known on three days.
    pub fn is_over(self, later: Day) -> bool {
        match (self, later) {
            (Day::Number(day), Day::Number(later)) => day.saturating_add(2) < later,
            _ => false,
        }
    }
}

/// The period that this day belongs to.
pub fn period(day: u32) -> u32 {
    day >> 5
}

/// True if a period begins on this day.
pub fn is_first_of_period(day: u32) -> bool {
    day.is_multiple_of(32)
}

/// What a client and the gatekeeper share: all keys from one period on.
pub struct ClientSecrets {
    period: u32,
    secret: Secret<32>,
    clockless: Secret<32>,
}

/// The secret of one client and day that the listener has: it opens knocks and seals receipts.
pub struct WireSecret(Secret<32>);

/// The key of one client and day that the listener lacks. So whoever took the listener over can
/// make neither a knock nor a receipt.
pub struct GateKey(Secret<32>);

/// The wire secrets of one client around `day`, as the listener gets them: see [`SLOTS`]. An
/// invitation has no day. Of its slots only the last one is in use, and the others are zero.
pub struct WireRow(Box<RowKeys>);

/// In one piece on the heap: there may be 100,000.
#[derive(Zeroize, ZeroizeOnDrop)]
struct RowKeys {
    day: Option<u32>,
    secrets: [u8; 32 * SLOTS],
}

/// The labels of one kind of key.
struct DayLabels {
    of_day: &'static [u8],
    clockless: &'static [u8],
}

impl ClientSecrets {
    /// Secrets that were stored: `secret` is that of `period`.
    pub fn new(period: u32, secret: Secret<32>, clockless: Secret<32>) -> Self {
        Self { period, secret, clockless }
    }

    /// The secrets of a client whose root was made in `first_period`.
    pub(super) fn of_root(root: &Secret<32>, first_period: u32) -> Self {
        Self {
            period: first_period,
            secret: derive(root, b"toctoc v1 first period", &first_period.to_be_bytes()),
            clockless: derive(root, b"toctoc v1 secret without a clock", &[]),
        }
    }

    pub fn period(&self) -> u32 {
        self.period
    }

    pub fn secret(&self) -> &Secret<32> {
        &self.secret
    }

    pub fn clockless(&self) -> &Secret<32> {
        &self.clockless
    }

    /// The first day that there are keys for.
    pub fn first_day(&self) -> u32 {
        self.period.saturating_mul(32)
    }

    pub fn duplicate(&self) -> Self {
        Self::new(self.period, self.secret.duplicate(), self.clockless.duplicate())
    }

    /// The secrets from `period` on: what lies before it cannot be computed from them. `None` if
    /// these begin later.
    pub fn since(&self, period: u32) -> Option<Self> {
        Some(Self::new(period, self.secret_of(period)?, self.clockless.duplicate()))
    }

    /// `None` for a day before the first one.
    pub fn wire(&self, day: Day) -> Option<WireSecret> {
        let labels = DayLabels {
            of_day: b"toctoc v1 wire secret of a day",
            clockless: b"toctoc v1 wire secret without a clock",
        };
        self.of_day(day, &labels).map(WireSecret)
    }

    /// `None` for a day before the first one.
    pub fn gate(&self, day: Day) -> Option<GateKey> {
        let labels = DayLabels {
            of_day: b"toctoc v1 gate key of a day",
            clockless: b"toctoc v1 gate key without a clock",
        };
        self.of_day(day, &labels).map(GateKey)
    }

    fn of_day(&self, day: Day, labels: &DayLabels) -> Option<Secret<32>> {
        match day {
            Day::Unknown | Day::Invited => Some(derive(&self.clockless, labels.clockless, &[])),
            Day::Number(day) => {
                let secret = self.secret_of(period(day))?;
                Some(derive(&secret, labels.of_day, &day.to_be_bytes()))
            }
        }
    }

    /// What the listener gets of this client on its working day `day`, or on the first one whose
    /// day before has keys too.
    pub fn wire_row(&self, day: u32) -> WireRow {
        let day = day.max(self.first_day().saturating_add(1));
        // One walk along the chain for all three days.
        let from = self.since(period(day.saturating_sub(1)));
        let from = from.expect("that day is not before the first one");
        let mut row = WireRow::empty(Some(day));
        for (place, day) in row.0.secrets.chunks_exact_mut(32).zip(days_around(day)) {
            let wire = from.wire(day).expect("no slot is before that period");
            place.copy_from_slice(wire.expose());
        }
        row
    }

    /// What the listener gets of an invitation with these secrets.
    pub fn invitation_row(&self) -> WireRow {
        let wire = self.wire(Day::Invited).expect("these keys belong to no day");
        let mut row = WireRow::empty(None);
        if let Some(last) = row.0.secrets.last_chunk_mut() {
            *last = *wire.expose();
        }
        row
    }

    /// The secret of this period. `None` for one before ours: nobody can go back.
    fn secret_of(&self, period: u32) -> Option<Secret<32>> {
        let steps = period.checked_sub(self.period)?;
        let mut secret = self.secret.duplicate();
        for step in 1..=steps {
            let number = self.period.saturating_add(step).to_be_bytes();
            secret = derive(&secret, b"toctoc v1 next period", &number);
        }
        Some(secret)
    }
}

/// The days in the order of a client's [`WireRow`].
fn days_around(day: u32) -> [Day; SLOTS] {
    let [before, after] = [day.saturating_sub(1), day.saturating_add(1)];
    [Day::Number(before), Day::Number(day), Day::Number(after), Day::Unknown]
}

impl WireSecret {
    pub fn new(secret: Secret<32>) -> Self {
        Self(secret)
    }

    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// The pre-shared key of the handshake.
    pub fn psk(&self) -> Secret<32> {
        derive(&self.0, b"toctoc v1 client psk", &[])
    }

    /// The key of the client MAC, which protects the gateway's curve operations.
    pub fn mac_key(&self) -> Secret<32> {
        derive(&self.0, b"toctoc v1 client mac key", &[])
    }

    pub fn tag(&self) -> [u8; TAG] {
        keyed16(self.expose(), &[b"toctoc v1 tag\0"])
    }
}

impl GateKey {
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    pub(super) fn secret(&self) -> &Secret<32> {
        &self.0
    }

    /// The gate MAC of a knock's body, `covered` without the MAC itself.
    pub fn gate_mac(&self, gateway: GatewayId, h: &[u8; 32], covered: &[u8]) -> [u8; MAC] {
        keyed16(self.expose(), &[GATE_MAC, &gateway.0, h, covered])
    }

    /// The receipt MAC for the knock with handshake hash `h`.
    pub fn receipt_mac(&self, gateway: GatewayId, h: &[u8; 32], covered: &[u8]) -> [u8; MAC] {
        keyed16(self.expose(), &[RECEIPT_MAC, &gateway.0, h, covered])
    }
}

/// Compares two MACs in constant time.
pub(in crate::core) fn same_mac(one: &[u8; MAC], other: &[u8; MAC]) -> bool {
    one.ct_eq(other).into()
}

impl WireRow {
    /// The row of the day and the secrets that another one has.
    pub fn new(day: Option<u32>, secrets: &[u8; 32 * SLOTS]) -> Self {
        let mut row = Self::empty(day);
        row.0.secrets.copy_from_slice(secrets);
        row
    }

    fn empty(day: Option<u32>) -> Self {
        Self(Box::new(RowKeys { day, secrets: [0; 32 * SLOTS] }))
    }

    /// The client's working day when it was made; `None` for an invitation.
    pub fn day(&self) -> Option<u32> {
        self.0.day
    }

    pub fn secrets(&self) -> &[u8; 32 * SLOTS] {
        &self.0.secrets
    }

    /// The wire secret in this slot. `None` if there is none.
    pub fn wire(&self, slot: u8) -> Option<WireSecret> {
        self.day_of(slot)?;
        let bytes = self.0.secrets.chunks_exact(32).nth(usize::from(slot))?;
        let mut secret = Secret(Box::new([0; 32]));
        secret.0.copy_from_slice(bytes);
        Some(WireSecret(secret))
    }

    /// The day of this slot. `None` beyond the last one, and for an unused one.
    pub fn day_of(&self, slot: u8) -> Option<Day> {
        self.days().get(usize::from(slot)).copied().flatten()
    }

    fn days(&self) -> [Option<Day>; SLOTS] {
        match self.0.day {
            Some(day) => days_around(day).map(Some),
            None => [None, None, None, Some(Day::Invited)],
        }
    }

    /// The tags of its slots. An unused slot has none: everybody knows the tag of a secret of
    /// zeros.
    pub fn tags(&self) -> [Option<[u8; TAG]>; SLOTS] {
        let mut tags = [None; SLOTS];
        let secrets = self.days().into_iter().zip(self.0.secrets.chunks_exact(32));
        for (tag, (day, secret)) in tags.iter_mut().zip(secrets) {
            if day.is_some()
                && let Ok(secret) = secret.try_into()
            {
                *tag = Some(keyed16(secret, &[b"toctoc v1 tag\0"]));
            }
        }
        tags
    }

    /// Those of its `tags` that are not among `others`, with what the kernel's filter needs to check
    /// client MACs.
    pub fn filter_keys(
        &self, tags: &[Option<[u8; TAG]>; SLOTS], others: &[Option<[u8; TAG]>; SLOTS],
    ) -> Vec<FilterKey> {
        let mut keys = Vec::new();
        for (slot, tag) in (0..).zip(*tags) {
            if let Some(tag) = tag
                && !others.contains(&Some(tag))
                && let Some(wire) = self.wire(slot)
            {
                keys.push(FilterKey::new(tag, &wire));
            }
        }
        keys
    }

    /// The tag that stays the same from day to day.
    pub fn clockless_tag(&self) -> [u8; TAG] {
        let last = self.0.secrets.last_chunk();
        keyed16(last.expect("more than one secret"), &[b"toctoc v1 tag\0"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::keyring::Master;
    use crate::core::types::ClientId;

    fn secrets(first_period: u32) -> ClientSecrets {
        Master::new(Secret::new([1; 32])).client_secrets(ClientId([2; 16]), first_period)
    }

    #[test]
    fn a_client_that_moved_on_has_the_same_keys_and_none_of_earlier_days() {
        let first = secrets(600);
        let later = first.since(603).unwrap();
        assert!(later.since(602).is_none() && later.period() == 603);
        for day in [Day::Number(603 * 32), Day::Number(700 * 32 + 31), Day::Unknown] {
            assert_eq!(first.wire(day).unwrap().expose(), later.wire(day).unwrap().expose());
            assert_eq!(first.gate(day).unwrap().expose(), later.gate(day).unwrap().expose());
        }
        let before = Day::Number(603 * 32 - 1);
        assert!(first.wire(before).is_some() && first.gate(before).is_some());
        assert!(later.wire(before).is_none() && later.gate(before).is_none());
        assert_eq!(later.wire_row(0).day(), Some(603 * 32 + 1));
    }

    #[test]
    fn a_row_has_the_wire_secrets_of_its_days() {
        let secrets = secrets(600);
        for day in [600 * 32 + 1, 601 * 32 - 1, 601 * 32, 601 * 32 + 1, 640 * 32] {
            let row = secrets.wire_row(day);
            for (slot, tag) in (0..).zip(row.tags()) {
                let wire = secrets.wire(row.day_of(slot).unwrap()).unwrap();
                assert_eq!(row.wire(slot).unwrap().expose(), wire.expose(), "{day} {slot}");
                assert_eq!(tag, Some(wire.tag()));
            }
            assert!(row.wire(4).is_none() && row.day_of(4).is_none());
            assert_eq!(row.clockless_tag(), secrets.wire(Day::Unknown).unwrap().tag());
        }
    }

    #[test]
    fn a_row_of_an_invitation_has_its_clockless_keys_and_nothing_else() {
        let secrets = secrets(600);
        let row = secrets.invitation_row();
        let wire = secrets.wire(Day::Invited).unwrap();
        assert_eq!(row.day_of(3), Some(Day::Invited));
        assert_eq!(row.wire(3).unwrap().expose(), wire.expose());
        for slot in [0, 1, 2, 4] {
            assert!(row.wire(slot).is_none() && row.day_of(slot).is_none(), "{slot}");
        }
        assert_eq!(row.tags(), [None, None, None, Some(wire.tag())]);
        assert_eq!(row.secrets()[..96], [0; 96]);
        assert_eq!(row.clockless_tag(), secrets.wire_row(19_300).clockless_tag());
    }
}
