//! The enrolled clients: a table that is cheap to copy and to compare, however many there are.
//! See `keys::authorized` for its file.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use super::authentic::check_enrolment_key;
use super::service::Client;
use super::types::{ClientId, Fault, ServiceName};

/// One client of a table. Tables that came from each other share it.
#[derive(Debug)]
pub struct Enrolled {
    pub client: Client,
    /// A hash of its line in the clients file: the same line need not be read again.
    line: u64,
    /// True if its key may be used; unknown until the key is first needed.
    sound: OnceLock<bool>,
}

/// All clients, each once, in the order of their ids. A copy costs nothing. Tables that came from
/// each other share the parts that are the same: so neither a comparison nor the end of the older
/// one takes longer the more clients there are.
#[derive(Clone, Debug, Default)]
pub struct ClientTable {
    /// A power of two of them, by the first bits of the id.
    parts: Arc<[Part]>,
    /// The number of clients, invitations not counted.
    len: usize,
    /// The services that they name.
    services: Arc<BTreeSet<ServiceName>>,
    /// The seconds in which one of them expires, in order.
    expiries: Arc<[u64]>,
}

/// Some clients, in the order of their ids.
type Part = Arc<[Arc<Enrolled>]>;
/// The most clients of a part on average.
const PART: usize = 128;

/// The difference between two tables.
#[derive(Debug, PartialEq)]
pub struct ClientChanges<'a> {
    /// Clients that the newer table does not have.
    pub gone: Vec<ClientId>,
    /// Clients that only the newer table has, or that are different there.
    pub new: Vec<&'a Client>,
}

impl Enrolled {
    pub fn new(client: Client, line: u64) -> Arc<Enrolled> {
        Arc::new(Enrolled { client, line, sound: OnceLock::new() })
    }

    /// Checks the client's key, once. It takes as long as a signature: with 100,000 clients nobody
    /// can wait for that at a start. Until then the key has verified nothing.
    pub fn check_key(&self) -> Result<(), Fault> {
        let checked = check_enrolment_key(&self.client.key.ed25519);
        self.sound.get_or_init(|| checked.is_ok());
        checked
    }

    fn id(&self) -> ClientId {
        self.client.id
    }

    fn is_sound(&self) -> bool {
        *self.sound.get_or_init(|| check_enrolment_key(&self.client.key.ed25519).is_ok())
    }
}

impl ClientTable {
    /// The table of these clients, which shares with `before` what is the same. A disabled one has
    /// no row. Fails with an id that two of them have.
    pub fn new(
        before: &ClientTable, clients: impl IntoIterator<Item = Arc<Enrolled>>,
    ) -> Result<ClientTable, ClientId> {
        let clients: Vec<Arc<Enrolled>> = clients.into_iter().collect();
        let count = (clients.len() / PART).next_power_of_two();
        let is_client = |row: &&Arc<Enrolled>| {
            row.client.invited_until.is_none() && !row.client.limits().disabled
        };
        let len = clients.iter().filter(is_client).count();
        let mut parts: Vec<Vec<Arc<Enrolled>>> = vec![Vec::new(); count];
        let mut lists: Vec<Arc<[ServiceName]>> = Vec::new();
        let mut expiries = Vec::new();
        for enrolled in clients {
            let Client { expires, services, .. } = &enrolled.client;
            expiries.extend(*expires);
            if lists.last().is_none_or(|last| !Arc::ptr_eq(last, services)) {
                lists.push(Arc::clone(services));
            }
            parts[part_of(enrolled.id(), count)].push(enrolled);
        }
        expiries.sort_unstable();
        let mut shared: Vec<Part> = Vec::with_capacity(count);
        for mut part in parts {
            part.sort_unstable_by_key(|enrolled| enrolled.id());
            if let Some(pair) = part.windows(2).find(|pair| pair[0].id() == pair[1].id()) {
                return Err(pair[0].id());
            }
            part.retain(|enrolled| !enrolled.client.limits().disabled);
            let old = before.parts.get(shared.len()).filter(|_| before.parts.len() == count);
            shared.push(match old {
                Some(old) if is_same(old, &part) => Arc::clone(old),
                _ => part.into(),
            });
        }
        let mut pairs = before.parts.iter().zip(&shared);
        if before.parts.len() == count && pairs.all(|(old, new)| Arc::ptr_eq(old, new)) {
            return Ok(before.clone());
        }
        Ok(ClientTable {
            parts: shared.into(),
            len,
            services: Arc::new(lists.iter().flat_map(|list| list.iter().copied()).collect()),
            expiries: expiries.into(),
        })
    }

    /// The number of clients. Invitations have rows too and do not count.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = &Client> {
        self.after(None)
    }

    /// The clients after this one in the order, all if there is none.
    pub fn after(&self, id: Option<ClientId>) -> impl Iterator<Item = &Client> {
        let first = id.map_or(0, |id| part_of(id, self.parts.len()));
        let rows = self.parts.iter().skip(first).flat_map(|part| part.iter());
        let rows = rows.skip_while(move |other| id.is_some_and(|id| other.id() <= id));
        rows.map(|enrolled| &enrolled.client)
    }

    /// The services that the clients name.
    pub fn services(&self) -> &BTreeSet<ServiceName> {
        &self.services
    }

    pub fn get(&self, id: ClientId) -> Option<&Client> {
        self.enrolled(id).map(|enrolled| &enrolled.client)
    }

    /// The client, if a signature by its key proves something.
    pub fn with_sound_key(&self, id: ClientId) -> Option<&Client> {
        self.enrolled(id).filter(|enrolled| enrolled.is_sound()).map(|enrolled| &enrolled.client)
    }

    /// What is wrong with the key of this client, if it was needed and is bad.
    pub fn key_fault(&self, id: ClientId) -> Option<Fault> {
        let enrolled = self.enrolled(id)?;
        if enrolled.sound.get() == Some(&false) { enrolled.check_key().err() } else { None }
    }

    /// The client, if its line has this hash.
    pub fn unchanged(&self, id: ClientId, line: u64) -> Option<Arc<Enrolled>> {
        self.enrolled(id).filter(|enrolled| enrolled.line == line).cloned()
    }

    /// True if a client expires in one of these seconds.
    pub fn expires_between(&self, first: u64, last: u64) -> bool {
        let place = self.expiries.partition_point(|second| *second < first);
        self.expiries.get(place).is_some_and(|second| *second <= last)
    }

    /// True if both are the same copy.
    pub fn is_same(&self, other: &ClientTable) -> bool {
        Arc::ptr_eq(&self.parts, &other.parts)
    }

    /// The table with these rows besides its own, which shares with `before` what is the same.
    /// Fails as [`ClientTable::new`].
    pub fn joined(
        &self, before: &ClientTable, rows: impl IntoIterator<Item = Arc<Enrolled>>,
    ) -> Result<ClientTable, ClientId> {
        let own = self.rows(|_| true).cloned();
        ClientTable::new(before, own.chain(rows))
    }

    /// The table without the rows of these ids and with these others. Fails as
    /// [`ClientTable::new`].
    pub fn replaced(
        &self, gone: &[ClientId], rows: impl IntoIterator<Item = Arc<Enrolled>>,
    ) -> Result<ClientTable, ClientId> {
        let kept = self.rows(|_| true).filter(|enrolled| !gone.contains(&enrolled.id()));
        ClientTable::new(self, kept.cloned().chain(rows))
    }

    /// The table with only these clients.
    pub fn retain(&self, keep: impl Fn(ClientId) -> bool) -> ClientTable {
        let kept = self.rows(|_| true).filter(|enrolled| keep(enrolled.id()));
        // No two of this table have the same id.
        ClientTable::new(self, kept.cloned()).unwrap_or_default()
    }

    /// The table without these clients. Only the parts in which they stand are made again; the
    /// services that they name and the seconds in which they expire stay noted.
    pub fn without(&self, ids: &BTreeSet<ClientId>) -> ClientTable {
        let mut left = self.clone();
        for id in ids.iter().filter(|id| self.get(**id).is_some()) {
            let place = part_of(*id, left.parts.len());
            let Some(part) = Arc::make_mut(&mut left.parts).get_mut(place) else { continue };
            let is_gone = |row: &&Arc<Enrolled>| row.id() == *id;
            if part.iter().any(|row| is_gone(&row) && row.client.invited_until.is_none()) {
                left.len -= 1;
            }
            *part = part.iter().filter(|row| !is_gone(row)).cloned().collect();
        }
        left
    }

    /// What must change to come from this table to `newer`.
    pub fn changes<'a>(&self, newer: &'a ClientTable) -> ClientChanges<'a> {
        let mut changes = ClientChanges { gone: Vec::new(), new: Vec::new() };
        let comparable = self.parts.len() == newer.parts.len();
        let differs =
            |place: usize| !comparable || !Arc::ptr_eq(&self.parts[place], &newer.parts[place]);
        let mut old = self.rows(differs).peekable();
        for enrolled in newer.rows(differs) {
            let id = enrolled.id();
            while let Some(gone) = old.next_if(|other| other.id() < id) {
                changes.gone.push(gone.id());
            }
            let before = old.next_if(|other| other.id() == id);
            let is_same = before.is_some_and(|before| {
                Arc::ptr_eq(before, enrolled) || before.client == enrolled.client
            });
            if !is_same {
                changes.new.push(&enrolled.client);
            }
        }
        changes.gone.extend(old.map(|gone| gone.id()));
        changes
    }

    fn enrolled(&self, id: ClientId) -> Option<&Arc<Enrolled>> {
        let part = self.parts.get(part_of(id, self.parts.len()))?;
        let place = part.binary_search_by_key(&id, |enrolled| enrolled.id()).ok()?;
        part.get(place)
    }

    /// The rows of the chosen parts.
    fn rows(&self, choose: impl Fn(usize) -> bool) -> impl Iterator<Item = &Arc<Enrolled>> {
        let chosen = self.parts.iter().enumerate().filter(move |(place, _)| choose(*place));
        chosen.flat_map(|(_, part)| part.iter())
    }
}

/// The place of the part for this id, of so many: the order of parts is that of ids.
fn part_of(id: ClientId, parts: usize) -> usize {
    let [a, b, c, d, ..] = id.0;
    let first = u64::from(u32::from_be_bytes([a, b, c, d]));
    ((first * parts as u64) >> 32) as usize
}

fn is_same(old: &Part, new: &[Arc<Enrolled>]) -> bool {
    old.len() == new.len() && old.iter().zip(new).all(|(old, new)| Arc::ptr_eq(old, new))
}

impl From<Vec<Client>> for ClientTable {
    fn from(clients: Vec<Client>) -> ClientTable {
        let clients = clients.into_iter().map(|client| Enrolled::new(client, 0));
        ClientTable::new(&ClientTable::default(), clients).expect("each id once")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::public_key::PublicKey;
    use crate::core::test_vectors;

    fn client(id: u8, name: &str) -> Client {
        Client { id: ClientId([id; 16]), name: name.into(), ..test_vectors::client() }
    }

    fn table(names: &[(u8, &str)]) -> ClientTable {
        names.iter().map(|(id, name)| client(*id, name)).collect::<Vec<_>>().into()
    }

    #[test]
    fn a_client_is_found_by_its_id_wherever_it_stands() {
        let table = table(&[(7, "g"), (1, "a"), (4, "d")]);
        for (id, name) in [(1, "a"), (4, "d"), (7, "g")] {
            assert_eq!(table.get(ClientId([id; 16])).unwrap().name, name);
        }
        for id in [0, 2, 5, 9] {
            assert!(table.get(ClientId([id; 16])).is_none());
        }
        assert_eq!((table.len(), table.iter().nth(1).unwrap().name.as_str()), (3, "d"));
    }

    #[test]
    fn the_clients_after_one_are_found_also_when_that_one_is_gone() {
        let table = table(&[(7, "g"), (1, "a"), (4, "d")]);
        for (after, names) in [
            (None, &["a", "d", "g"][..]),
            (Some(0), &["a", "d", "g"]),
            (Some(1), &["d", "g"]),
            (Some(5), &["g"]),
            (Some(7), &[]),
        ] {
            let after = after.map(|id| ClientId([id; 16]));
            let found: Vec<&str> = table.after(after).map(|one| one.name.as_str()).collect();
            assert_eq!(found, names);
        }
    }

    #[test]
    fn the_changes_between_two_tables_are_those_who_went_came_or_differ() {
        let old = table(&[(1, "a"), (2, "b"), (3, "c"), (5, "e")]);
        let new = table(&[(0, "z"), (2, "b"), (3, "C"), (4, "d")]);
        let changes = old.changes(&new);
        assert_eq!(changes.gone, [1, 5].map(|id| ClientId([id; 16])));
        let names: Vec<&str> = changes.new.iter().map(|client| client.name.as_str()).collect();
        assert_eq!(names, ["z", "C", "d"]);
        for same in [old.clone(), table(&[(5, "e"), (3, "c"), (2, "b"), (1, "a")])] {
            assert_eq!(old.changes(&same), ClientChanges { gone: vec![], new: vec![] });
        }
        assert_eq!(old.changes(&ClientTable::default()).gone.len(), 4);
        assert_eq!(old.retain(|id| id.0[0] < 3).len(), 2);
    }

    #[test]
    fn a_change_of_one_client_among_many_leaves_all_other_parts_shared() {
        let enrolled = |number: u32| {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
            Enrolled::new(Client { id: ClientId(id), ..client(1, "x") }, 0)
        };
        let all: Vec<Arc<Enrolled>> = (0..10_000).map(enrolled).collect();
        let before = ClientTable::new(&ClientTable::default(), all.clone()).unwrap();
        assert!(before.iter().is_sorted_by_key(|client| client.id));
        assert!(all.iter().all(|one| before.get(one.client.id).is_some()));
        let ids: Vec<ClientId> = before.iter().map(|client| client.id).collect();
        for place in [0, 1, 127, 128, 5000, 9999] {
            let after = before.after(Some(ids[place])).map(|client| client.id);
            assert!(after.eq(ids[place + 1..].iter().copied()));
        }
        assert!(ClientTable::new(&before, all.clone()).unwrap().is_same(&before));

        let gone = BTreeSet::from([ids[0], ids[1], ids[5000], ClientId([7; 16])]);
        let left = before.without(&gone);
        assert_eq!((left.len(), left.iter().count()), (9997, 9997));
        assert_eq!(before.changes(&left).gone, [ids[0], ids[1], ids[5000]]);
        assert!(before.changes(&left).new.is_empty() && before.get(ids[0]).is_some());
        let made = left.parts.iter().zip(before.parts.iter());
        let made = made.filter(|(left, before)| !Arc::ptr_eq(left, before)).count();
        assert!(made <= 3, "{made} parts were made again");
        assert!(before.without(&BTreeSet::new()).is_same(&before));

        let mut others = all.clone();
        others[77] = enrolled(77);
        for changed in [others, all[1..].to_vec(), [&all[..], &[enrolled(10_000)]].concat()] {
            let after = ClientTable::new(&before, changed).unwrap();
            let parts = before.parts.iter().zip(after.parts.iter());
            let different = parts.filter(|(old, new)| !Arc::ptr_eq(old, new)).count();
            assert_eq!((before.parts.len(), after.parts.len(), different), (128, 128, 1));
        }
        let after = ClientTable::new(&before, all[..100].to_vec()).unwrap();
        assert_eq!(
            (before.changes(&after).gone.len(), after.changes(&before).new.len()),
            (9900, 9900)
        );
        let twice = ClientTable::new(&before, [&all[..], &all[5..6]].concat());
        assert_eq!(twice.unwrap_err(), all[5].client.id);
    }

    #[test]
    fn a_key_that_proves_nothing_is_never_used_and_a_good_one_is_checked_once() {
        // The neutral element: everybody can make a signature for it.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let bad = Client { key: PublicKey::plain(neutral), ..client(1, "bad") };
        let table = ClientTable::from(vec![bad, client(2, "good")]);
        assert!(table.with_sound_key(ClientId([1; 16])).is_none());
        assert!(table.key_fault(ClientId([1; 16])).is_some());
        for _ in 0..2 {
            assert_eq!(table.with_sound_key(ClientId([2; 16])).unwrap().name, "good");
        }
        assert_eq!(table.parts[0][1].sound.get(), Some(&true));
    }
}
