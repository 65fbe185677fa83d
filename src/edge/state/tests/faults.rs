//! A disk that dies, fails and forgets at every step: no mark that was given out as durable may be
//! missing afterwards.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::*;

/// What happens at the chosen step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// SIGKILL: the step is half done, nothing follows, and what the kernel has is kept.
    Killed,
    /// The power fails: of what was not synced, anything may be there.
    PowerCut,
    /// The step fails half done, the next ones work.
    Error,
    /// From this step on, everything fails: the disk is full, or broken.
    Dead,
}

/// Files by number: content as read, content that is durable, and writes in between.
#[derive(Clone, Default)]
struct Inode {
    visible: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

#[derive(Default)]
struct Platter {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    open: Option<usize>,
    steps: usize,
    fate: Option<(usize, Fate)>,
    random: u64,
}

#[derive(Clone, Default)]
struct Faulty(Rc<RefCell<Platter>>);

impl Platter {
    fn random(&mut self, limit: usize) -> usize {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.random >> 33).unwrap() % limit.max(1)
    }

    /// Counts a step; `Err` if it is the one that goes wrong.
    fn step(&mut self) -> Result<(), ()> {
        self.steps += 1;
        match self.fate {
            Some((at, Fate::Error)) if at == self.steps => Err(()),
            Some((at, Fate::Error)) if at < self.steps => Ok(()),
            Some((at, _)) if at <= self.steps => Err(()),
            _ => Ok(()),
        }
    }

    fn is_dead(&self) -> bool {
        self.fate.is_some_and(|(at, fate)| fate != Fate::Error && at < self.steps)
    }

    fn write(&mut self, inode: usize, at: usize, bytes: &[u8]) {
        let inode = &mut self.inodes[inode];
        patch(&mut inode.visible, at, bytes);
        inode.pending.push((at, bytes.to_vec()));
    }

    fn sync(&mut self, inode: usize) {
        let inode = &mut self.inodes[inode];
        for (at, bytes) in std::mem::take(&mut inode.pending) {
            patch(&mut inode.durable, at, &bytes);
        }
    }

    /// What is there after the power came back.
    fn cut(&mut self) {
        for inode in 0..self.inodes.len() {
            for (at, bytes) in std::mem::take(&mut self.inodes[inode].pending) {
                match self.random(3) {
                    0 => {}
                    1 => patch(&mut self.inodes[inode].durable, at, &bytes),
                    _ => {
                        let kept = self.random(bytes.len());
                        patch(&mut self.inodes[inode].durable, at, &bytes[..kept]);
                    }
                }
            }
            self.inodes[inode].visible = self.inodes[inode].durable.clone();
        }
        if self.random(2) == 0 {
            self.names = self.durable_names.clone();
        }
        self.durable_names = self.names.clone();
    }
}

fn patch(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    content.resize(content.len().max(at + bytes.len()), 0);
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

fn broken<T>() -> io::Result<T> {
    Err(io::Error::from_raw_os_error(5))
}

impl Disk for Faulty {
    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let disk = self.0.borrow();
        if disk.is_dead() {
            return broken();
        }
        Ok(disk.names.get(name).map(|inode| disk.inodes[*inode].visible.clone()))
    }

    fn write_new(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        let wrong = disk.step();
        if disk.is_dead() {
            return broken();
        }
        disk.inodes.push(Inode::default());
        let inode = disk.inodes.len() - 1;
        disk.names.insert(name.to_owned(), inode);
        let kept = if wrong.is_err() { disk.random(bytes.len()) } else { bytes.len() };
        disk.write(inode, 0, &bytes[..kept]);
        wrong.or_else(|()| broken())?;
        disk.sync(inode);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        let wrong = disk.step();
        if disk.is_dead() {
            return broken();
        }
        // A rename that fails may have happened.
        if (wrong.is_ok() || disk.random(2) == 0)
            && let Some(inode) = disk.names.remove(from)
        {
            disk.names.insert(to.to_owned(), inode);
        }
        wrong.or_else(|()| broken())
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        disk.step().or_else(|()| broken())?;
        disk.durable_names = disk.names.clone();
        Ok(())
    }

    fn open(&mut self, name: &str) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        disk.step().or_else(|()| broken())?;
        disk.open = disk.names.get(name).copied();
        Ok(())
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        let wrong = disk.step();
        if disk.is_dead() {
            return broken();
        }
        let (inode, at) = (disk.open.unwrap(), usize::try_from(at).unwrap());
        let kept = if wrong.is_err() { disk.random(bytes.len()) } else { bytes.len() };
        disk.write(inode, at, &bytes[..kept]);
        wrong.or_else(|()| broken())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        let wrong = disk.step();
        if disk.is_dead() {
            return broken();
        }
        let inode = disk.open.unwrap();
        if wrong.is_err() {
            // As Linux does: the pages count as clean from now on, are read as written, and may
            // never reach the disk.
            if disk.fate.is_some_and(|(_, fate)| matches!(fate, Fate::Error | Fate::Dead)) {
                disk.inodes[inode].pending.clear();
            }
            return broken();
        }
        disk.sync(inode);
        Ok(())
    }
}

/// Twelve commits of two marks each, on the disk as it is. Which marks were given out as durable.
fn work(disk: &Faulty, from: u64, compact_always: bool) -> BTreeSet<u64> {
    let mut given = BTreeSet::new();
    let Ok((mut state, recovered)) = State::open_on(disk.clone(), "here", NOW, None) else {
        return given;
    };
    assert!(recovered.intact, "{:?}", recovered.why);
    for n in (from..from + 24).step_by(2) {
        if compact_always {
            state.limit = 0;
        }
        if state.commit(&[seen(n), seen(n + 1)]).is_ok() {
            given.extend([n, n + 1]);
        } else {
            assert!(state.is_poisoned());
            assert!(state.commit(&[seen(n)]).is_err(), "no commit before the state is read again");
            let Ok(recovered) = state.reopen(NOW) else { break };
            assert!(recovered.intact, "{:?}", recovered.why);
            assert!(held(&recovered.ledger).is_superset(&given));
        }
    }
    given
}

fn steps_of(compact_always: bool) -> usize {
    let disk = Faulty::default();
    assert_eq!(work(&disk, 0, compact_always).len(), 24);
    disk.0.borrow().steps
}

fn survives(fate: Fate, compact_always: bool, at: usize, seed: u64) {
    let disk = Faulty::default();
    disk.0.borrow_mut().random = seed;
    let mut given = work(&disk, 0, false);
    let start = disk.0.borrow().steps;
    disk.0.borrow_mut().fate = Some((start + at, fate));
    given.extend(work(&disk, 100, compact_always));
    let mut platter = disk.0.borrow_mut();
    platter.fate = None;
    // A power cut after every fate but SIGKILL: what was only read from a cache is gone then.
    if fate != Fate::Killed {
        platter.cut();
    }
    drop(platter);
    let after = work(&disk, 200, compact_always);
    assert_eq!(after.len(), 24, "{fate:?} at {at}: it works again");
    disk.0.borrow_mut().cut();
    let (_, recovered) = State::open_on(disk, "here", NOW, None).unwrap();
    assert!(recovered.intact, "{fate:?} at {at}: a false alarm: {:?}", recovered.why);
    given.extend(after);
    let missing: Vec<u64> = given.difference(&held(&recovered.ledger)).copied().collect();
    assert!(missing.is_empty(), "{fate:?} at {at}, seed {seed}: lost {missing:?}");
}

#[test]
fn whatever_step_it_is_killed_at_no_durable_mark_is_lost_and_no_false_alarm_given() {
    for fate in [Fate::Killed, Fate::PowerCut, Fate::Error, Fate::Dead] {
        for compact_always in [false, true] {
            for at in 1..=steps_of(compact_always) {
                (1..=3).for_each(|seed| survives(fate, compact_always, at, seed));
            }
        }
    }
}

#[test]
fn a_first_start_that_dies_at_any_step_is_still_a_start() {
    for fate in [Fate::Killed, Fate::PowerCut] {
        for at in 1..=6 {
            for seed in 1..=30 {
                let disk = Faulty::default();
                disk.0.borrow_mut().random = seed;
                disk.0.borrow_mut().fate = Some((at, fate));
                let given = work(&disk, 0, false);
                disk.0.borrow_mut().fate = None;
                if fate == Fate::PowerCut {
                    disk.0.borrow_mut().cut();
                }
                let (_, recovered) = State::open_on(disk, "here", NOW, None).unwrap();
                assert!(recovered.intact, "{fate:?} at {at}: {:?}", recovered.why);
                assert!(held(&recovered.ledger).is_superset(&given));
            }
        }
    }
}

#[test]
fn a_commit_is_one_write_one_sync_and_a_mark() {
    let disk = Faulty::default();
    let (mut state, _) = State::open_on(disk.clone(), "here", NOW, None).unwrap();
    let before = disk.0.borrow().steps;
    state.commit(&(0..50).map(seen).collect::<Vec<_>>()).unwrap();
    assert_eq!(disk.0.borrow().steps - before, 3);
}

#[test]
fn a_journal_that_grew_is_written_anew_and_stays_small() {
    let disk = Faulty::default();
    let (mut state, _) = State::open_on(disk.clone(), "here", NOW, None).unwrap();
    let mut largest = 0;
    for n in 0..20_000 {
        let client = ClientId([u8::try_from(n % 7).unwrap(); 16]);
        state.commit(&[Record::Seen { client, timestamp: Wall(n) }]).unwrap();
        largest = largest.max(state.tail.at);
    }
    assert!(largest <= COMPACT + 1000 && state.tail.at < COMPACT, "{largest}");
    let ledger = state.reopen(NOW).unwrap().ledger;
    for n in 0..20_000 {
        let client = ClientId([u8::try_from(n % 7).unwrap(); 16]);
        assert!(ledger.marks().any(|(id, marks)| id == client && marks.covered(Wall(n))), "{n}");
    }
}
