//! The keys of joining: an invitation has an id and a root of its own, and whoever joins gets new
//! ones. See `keys::invitation` for the line that is handed out, docs/protocol.md for the reasons.

use blake2::{Blake2s256, Digest};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};

use super::{ClientSecrets, GateKey, Master, Secret, derive, keyed16};
use crate::core::bytes::Writer;
use crate::core::types::{ClientId, GatewayId};

/// Bytes of a welcome: a root and the tag of its seal.
pub const WELCOME: usize = 48;
/// Bytes of the check value at the end of an invitation's line.
pub const LINE_CHECK: usize = 4;

const LINE_LABEL: &[u8] = b"toctoc v1 check of a line\0";

/// The secret that all others of one client, or of one invitation, come from. Nobody keeps it: it
/// is made when needed, and handed out in an invitation's line or in a welcome.
pub struct ClientRoot(Secret<32>);

/// Who joins where. A welcome can be opened only by the one that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newcomer {
    pub gateway: GatewayId,
    /// The new id.
    pub client: ClientId,
    /// The public key that was enrolled.
    pub key: [u8; 32],
}

impl Master {
    pub fn client_root(&self, client: ClientId) -> ClientRoot {
        ClientRoot(derive(&self.0, b"toctoc v1 client secret", &client.0))
    }

    /// The id of whoever joins by this invitation with this key. It is always the same one:
    /// whatever crashes in between, no second answer can differ from the first.
    pub fn joined_id(&self, invitation: ClientId, key: &[u8; 32]) -> ClientId {
        let label = b"toctoc v1 id of who joined\0";
        ClientId(keyed16(self.expose(), &[label, &invitation.0, key]))
    }
}

impl ClientRoot {
    pub fn new(secret: Secret<32>) -> Self {
        Self(secret)
    }

    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// The secrets that come from it, from `first_period` on.
    pub fn secrets(&self, first_period: u32) -> ClientSecrets {
        ClientSecrets::of_root(&self.0, first_period)
    }
}

impl GateKey {
    /// Seals the new client's root. This is the gate key of the invitation: the listener lacks it,
    /// so it can neither open a welcome nor make one.
    pub fn seal_welcome(&self, to: &Newcomer, root: &ClientRoot) -> [u8; WELCOME] {
        let mut sealed = *root.expose();
        let tag = self
            .welcome_cipher(to)
            .encrypt_inout_detached(&Nonce::default(), &[], sealed.as_mut_slice().into())
            .expect("32 bytes are within the limit of ChaCha20");
        Writer::new().put(&sealed).put(&tag).done()
    }

    /// `None` if it was not sealed for this one under this key.
    pub fn open_welcome(&self, to: &Newcomer, welcome: &[u8; WELCOME]) -> Option<ClientRoot> {
        let (sealed, tag) = welcome.split_first_chunk::<32>()?;
        let tag: [u8; WELCOME - 32] = tag.try_into().ok()?;
        let cipher = self.welcome_cipher(to);
        let open = |root: &mut [u8; 32]| {
            *root = *sealed;
            let bytes = root.as_mut_slice().into();
            cipher.decrypt_inout_detached(&Nonce::default(), &[], bytes, &tag.into())
        };
        Secret::filled(open).ok().map(ClientRoot)
    }

    /// The key depends on everything that the plain text depends on, so it never seals a second
    /// one, and the nonce is always zero.
    fn welcome_cipher(&self, to: &Newcomer) -> ChaCha20Poly1305 {
        let data: [u8; 64] = Writer::new().put(&to.gateway.0).put(&to.client.0).put(&to.key).done();
        let key = derive(self.secret(), b"toctoc v1 welcome", &data);
        ChaCha20Poly1305::new(key.expose().into())
    }
}

/// Finds typing mistakes in an invitation's line, `content` without the check value. It is no MAC:
/// anybody can compute it.
pub fn line_check(content: &[u8]) -> [u8; LINE_CHECK] {
    let mut hash = Blake2s256::new();
    hash.update(LINE_LABEL);
    hash.update(content);
    let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::keyring::Day;

    fn master() -> Master {
        Master::new(Secret::new([1; 32]))
    }

    #[test]
    fn a_welcome_opens_for_the_one_that_it_is_for_and_for_nobody_else() {
        let invitation = master().client_root(ClientId([2; 16])).secrets(640);
        let gate = invitation.gate(Day::Invited).unwrap();
        let to = Newcomer {
            gateway: GatewayId([3; 16]),
            client: master().joined_id(ClientId([2; 16]), &[4; 32]),
            key: [4; 32],
        };
        let root = master().client_root(to.client);
        let welcome = gate.seal_welcome(&to, &root);
        let opened = gate.open_welcome(&to, &welcome).unwrap();
        assert_eq!(opened.expose(), root.expose());
        for other in [
            Newcomer { gateway: GatewayId([0; 16]), ..to },
            Newcomer { client: ClientId([0; 16]), ..to },
            Newcomer { key: [0; 32], ..to },
        ] {
            assert!(gate.open_welcome(&other, &welcome).is_none(), "{other:?}");
        }
        for at in 0..WELCOME {
            let mut bad = welcome;
            bad[at] ^= 1;
            assert!(gate.open_welcome(&to, &bad).is_none(), "{at}");
        }
        let of_day = invitation.gate(Day::Number(640 * 32)).unwrap();
        assert!(of_day.open_welcome(&to, &welcome).is_none());
    }

    #[test]
    fn each_key_gets_an_id_of_its_own_by_each_invitation() {
        let id = |invitation, key| master().joined_id(ClientId([invitation; 16]), &[key; 32]);
        assert_eq!(id(1, 1), id(1, 1));
        assert_ne!(id(1, 1), id(1, 2));
        assert_ne!(id(1, 1), id(2, 1));
    }
}
