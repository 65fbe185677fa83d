//! Secrets and the keys derived from them. See `keys` for their text forms, `keyring::client` for a
//! client's keys of each day, and `keyring::tags` for finding a client by its tag.

use blake2::Blake2sMac;
use blake2::digest::array::ArraySize;
use blake2::digest::typenum::{IsLessOrEqual, True, U16, U32};
use blake2::digest::{KeyInit, Mac};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::bytes::Writer;
use super::types::{ClientId, GatewayId, RealmId};

pub mod blake2s;
mod client;
mod filter_keys;
mod joining;
mod shared_line;
mod shared_tags;
mod tags;
mod useless_copies;

pub(super) use client::same_mac;
pub use client::{
    ClientSecrets, Day, GateKey, MAC, SLOTS, TAG, WireRow, WireSecret, is_first_of_period, period,
};
pub use filter_keys::{FilterKey, KEY_WORDS};
pub use joining::{ClientRoot, LINE_CHECK, Newcomer, WELCOME, line_check};
pub use shared_line::WORDS;
#[cfg(test)]
pub(super) use shared_tags::changes;
pub use shared_tags::{
    CLIENT_MAC, COPIES, COUNTING, FilterDrops, LENGTH, PLACES, QUOTA, SharedTags, UNKNOWN_TAG,
};
pub use tags::{TagOwner, TagTable};
pub use useless_copies::COPY_LINES;

/// The gateway id of the published test keys (keys/README.md). Daemons must refuse it.
pub const TEST_GATEWAY_ID: GatewayId = GatewayId(*b"TESTKEY-NO-TRUST");

/// `N` secret bytes: not printable, compared only in constant time, copied only by `duplicate`,
/// wiped when dropped.
///
/// They are on the heap: moving a `Secret` moves a pointer and leaves no second copy behind.
pub struct Secret<const N: usize>(Box<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Copies `bytes` and wipes the array passed in; the caller's own copies are not wiped.
    pub fn new(mut bytes: [u8; N]) -> Self {
        let secret = Self(Box::new(bytes));
        bytes.zeroize();
        secret
    }

    /// Lets `fill` write the bytes in place, so that no other copy exists. Fails as `fill` does.
    pub fn filled<E>(fill: impl FnOnce(&mut [u8; N]) -> Result<(), E>) -> Result<Self, E> {
        let mut secret = Self(Box::new([0; N]));
        fill(&mut secret.0)?;
        Ok(secret)
    }

    /// The bytes, for the one computation that needs them.
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// True if both are equal. The time does not depend on where they differ.
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }

    /// A second copy, which is wiped separately.
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The gateway's secret from which every client's keys are derived: no secret is stored per client.
pub struct Master(Secret<32>);

impl Master {
    /// From the 32 random bytes in the gateway's key file.
    pub fn new(secret: Secret<32>) -> Self {
        Self(secret)
    }

    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    pub fn ct_eq(&self, other: &Master) -> bool {
        self.0.ct_eq(&other.0)
    }

    /// The secrets that `client` shares with this gateway, from `first_period` on.
    pub fn client_secrets(&self, client: ClientId, first_period: u32) -> ClientSecrets {
        self.client_root(client).secrets(first_period)
    }
}

pub const PROLOGUE: usize = 48;

/// A realm's id, and its mask keys, which make datagrams look random.
pub struct Realm {
    id: RealmId,
    mask: Secret<32>,
    knock_mask: Secret<32>,
    receipt_mask: Secret<32>,
}

impl Realm {
    /// Derives one mask key per direction, so that a knock and a receipt never share keystream.
    pub fn new(id: RealmId, mask: Secret<32>) -> Self {
        let knock_mask = derive(&mask, b"toctoc v1 mask of knocks", &[]);
        let receipt_mask = derive(&mask, b"toctoc v1 mask of receipts", &[]);
        Self { id, mask, knock_mask, receipt_mask }
    }

    pub fn id(&self) -> RealmId {
        self.id
    }

    /// The mask key itself, for profiles and key files.
    pub fn mask(&self) -> &Secret<32> {
        &self.mask
    }

    pub fn duplicate(&self) -> Self {
        Self::new(self.id, self.mask.duplicate())
    }

    /// The Noise prologue: project and version, realm, gateway.
    pub fn prologue(&self, gateway: GatewayId) -> [u8; PROLOGUE] {
        Writer::new().put(b"toctoc knock v1\0").put(&self.id.0).put(&gateway.0).done()
    }

    /// The key of the mask of knocks.
    pub fn knock_mask(&self) -> &[u8; 32] {
        self.knock_mask.expose()
    }

    pub(super) fn receipt_mask(&self) -> &[u8; 32] {
        self.receipt_mask.expose()
    }
}

/// Derives 32 bytes from `key` for one purpose. A label is ASCII and ends at the zero byte, and its
/// data has a fixed length, so no two purposes hash the same bytes.
fn derive(key: &Secret<32>, label: &[u8], data: &[u8]) -> Secret<32> {
    let mut derived = keyed::<U32>(key.expose(), &[label, &[0], data]);
    let mut secret = Secret(Box::new([0; 32]));
    secret.0.copy_from_slice(&derived);
    derived.as_mut_slice().zeroize();
    secret
}

/// Keyed BLAKE2s (RFC 7693) of the concatenated `parts`, 16 bytes, without allocation.
pub(super) fn keyed16(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 16] {
    keyed::<U16>(key, parts).into()
}

fn keyed<N: ArraySize + IsLessOrEqual<U32, Output = True>>(
    key: &[u8; 32], parts: &[&[u8]],
) -> blake2::digest::array::Array<u8, N> {
    #[cfg(test)]
    super::op_counter::count(|done| done.hashes += 1);
    let mut mac = <Blake2sMac<N> as KeyInit>::new(key.into());
    for part in parts {
        Mac::update(&mut mac, part);
    }
    mac.finalize().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(byte: u8) -> Master {
        Master::new(Secret::new([byte; 32]))
    }

    #[test]
    fn keyed_blake2s_is_rfc_7693s() {
        // Computed with Python's hashlib.blake2s(b"abc", digest_size=16, key=bytes(range(32))).
        let key: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let expected = [
            0x61, 0xba, 0x5f, 0x16, 0x5c, 0x19, 0x46, 0x92, 0xe0, 0x9d, 0x12, 0x52, 0x0c, 0xc4,
            0xc7, 0x4a,
        ];
        assert_eq!(keyed16(&key, &[b"a", b"bc"]), expected);
    }

    #[test]
    fn no_two_keys_of_a_realm_are_equal() {
        let [a, b] = [ClientId([1; 16]), ClientId([2; 16])];
        let days = [Day::Number(96), Day::Number(97), Day::Number(128), Day::Unknown];
        let mut seen = Vec::new();
        for (byte, id, first) in [(1, a, 2), (1, b, 2), (2, a, 2), (1, a, 1)] {
            let secrets = master(byte).client_secrets(id, first);
            seen.push(*secrets.secret().expose());
            for day in days.into_iter().take(if first == 2 { 4 } else { 3 }) {
                let wire = secrets.wire(day).unwrap();
                seen.extend([*wire.expose(), *wire.psk().expose(), *wire.mac_key().expose()]);
                seen.push(*secrets.gate(day).unwrap().expose());
            }
        }
        let realm = Realm::new(RealmId([1; 16]), Secret::new([1; 32]));
        seen.extend([*realm.mask().expose(), *realm.knock_mask(), *realm.receipt_mask()]);
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn the_prologue_names_project_realm_and_gateway() {
        let realm = Realm::new(RealmId([0xaa; 16]), Secret::new([1; 32]));
        let expected = [b"toctoc knock v1\0".as_slice(), &[0xaa; 16], &[0xbb; 16]].concat();
        assert_eq!(realm.prologue(GatewayId([0xbb; 16])).as_slice(), expected);
    }

    #[test]
    fn secrets_compare_by_value() {
        let a = Secret::new([7; 32]);
        assert!(a.ct_eq(&a.duplicate()));
        assert!(!a.ct_eq(&Secret::new([8; 32])));
        assert!(Secret::<4>::filled(|_| Err::<(), _>("no entropy")).is_err());
    }
}
