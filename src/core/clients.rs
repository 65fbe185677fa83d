//! The enrolled clients: a table that is cheap to copy and to compare, however many there are.
//! See `keys::authorized` for its file.

use std::sync::{Arc, OnceLock};

use super::authentic::check_enrolment_key;
use super::service::Client;
use super::types::{ClientId, Fault};

/// One client of a table. Tables that came from each other share it.
#[derive(Debug)]
pub struct Enrolled {
    pub client: Client,
    /// A hash of its line in the clients file: the same line need not be read again.
    line: u64,
    /// True if its key may be used; unknown until the key is first needed.
    sound: OnceLock<bool>,
}

/// All clients, each once, in the order of their ids. A copy costs nothing.
#[derive(Clone, Debug, Default)]
pub struct ClientTable {
    rows: Arc<Vec<(ClientId, Arc<Enrolled>)>>,
    /// The seconds in which one of them expires, in order.
    expiries: Arc<[u64]>,
}

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
        let checked = check_enrolment_key(&self.client.key);
        self.sound.get_or_init(|| checked.is_ok());
        checked
    }

    fn is_sound(&self) -> bool {
        *self.sound.get_or_init(|| check_enrolment_key(&self.client.key).is_ok())
    }
}

impl ClientTable {
    /// The table of these clients. The caller has checked that no two have the same id.
    pub fn new(clients: impl IntoIterator<Item = Arc<Enrolled>>) -> ClientTable {
        let mut rows = Vec::new();
        let mut expiries = Vec::new();
        for enrolled in clients {
            expiries.extend(enrolled.client.expires);
            rows.push((enrolled.client.id, enrolled));
        }
        rows.sort_unstable_by_key(|(id, _)| *id);
        rows.shrink_to_fit();
        expiries.sort_unstable();
        ClientTable { rows: Arc::new(rows), expiries: expiries.into() }
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Client> {
        self.rows.iter().map(|(_, enrolled)| &enrolled.client)
    }

    /// The client in this place of the order.
    pub fn nth(&self, place: usize) -> Option<&Client> {
        self.rows.get(place).map(|(_, enrolled)| &enrolled.client)
    }

    /// The clients after this one in the order, all if there is none.
    pub fn after(&self, id: Option<ClientId>) -> impl Iterator<Item = &Client> {
        let place = self.rows.partition_point(|(other, _)| id.is_some_and(|id| *other <= id));
        self.rows.iter().skip(place).map(|(_, enrolled)| &enrolled.client)
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
        Arc::ptr_eq(&self.rows, &other.rows)
    }

    /// The table with only these clients.
    pub fn retain(&self, keep: impl Fn(ClientId) -> bool) -> ClientTable {
        let kept = self.rows.iter().filter(|(id, _)| keep(*id));
        ClientTable::new(kept.map(|(_, enrolled)| Arc::clone(enrolled)))
    }

    /// What must change to come from this table to `newer`.
    pub fn changes<'a>(&self, newer: &'a ClientTable) -> ClientChanges<'a> {
        let mut changes = ClientChanges { gone: Vec::new(), new: Vec::new() };
        if self.is_same(newer) {
            return changes;
        }
        let mut old = self.rows.iter().peekable();
        for (id, enrolled) in newer.rows.iter() {
            while let Some((gone, _)) = old.next_if(|(other, _)| other < id) {
                changes.gone.push(*gone);
            }
            let before = old.next_if(|(other, _)| other == id);
            let is_same = before.is_some_and(|(_, before)| {
                Arc::ptr_eq(before, enrolled) || before.client == enrolled.client
            });
            if !is_same {
                changes.new.push(&enrolled.client);
            }
        }
        changes.gone.extend(old.map(|(gone, _)| *gone));
        changes
    }

    fn enrolled(&self, id: ClientId) -> Option<&Arc<Enrolled>> {
        let place = self.rows.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.rows.get(place).map(|(_, enrolled)| enrolled)
    }
}

impl From<Vec<Client>> for ClientTable {
    fn from(clients: Vec<Client>) -> ClientTable {
        ClientTable::new(clients.into_iter().map(|client| Enrolled::new(client, 0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::test_vectors;

    fn client(id: u8, name: &str) -> Client {
        Client { id: ClientId([id; 16]), name: name.to_owned(), ..test_vectors::client() }
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
        assert_eq!((table.len(), table.nth(1).unwrap().name.as_str()), (3, "d"));
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
    fn a_key_that_proves_nothing_is_never_used_and_a_good_one_is_checked_once() {
        // The neutral element: everybody can make a signature for it.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let bad = Client { key: neutral, ..client(1, "bad") };
        let table = ClientTable::from(vec![bad, client(2, "good")]);
        assert!(table.with_sound_key(ClientId([1; 16])).is_none());
        assert!(table.key_fault(ClientId([1; 16])).is_some());
        for _ in 0..2 {
            assert_eq!(table.with_sound_key(ClientId([2; 16])).unwrap().name, "good");
        }
        assert_eq!(table.rows[1].1.sound.get(), Some(&true));
    }
}
