//! A disk that dies, fails and forgets at every step: no mark that was given out as durable may be
//! missing afterwards.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

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

#[derive(Clone, Default)]
struct Platter {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    steps: usize,
    fate: Option<(usize, Fate)>,
    random: u64,
}

/// A handle on the disk.
#[derive(Clone, Default)]
struct Faulty {
    platter: Arc<Mutex<Platter>>,
    open: Option<usize>,
    /// What happens in the middle of a job: before its step of this number, from 0.
    between: Arc<Mutex<Option<(usize, Between)>>>,
}

type Between = Box<dyn FnOnce() + Send>;

impl Faulty {
    fn of(platter: &Platter) -> Faulty {
        Faulty { platter: Arc::new(Mutex::new(platter.clone())), ..Faulty::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap()
    }

    /// The disk, before its next step.
    fn step(&self) -> MutexGuard<'_, Platter> {
        let mut between = self.between.lock().unwrap();
        match between.take() {
            Some((0, happens)) => {
                drop(between);
                happens();
            }
            Some((steps, happens)) => *between = Some((steps - 1, happens)),
            None => {}
        }
        self.lock()
    }
}

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
    fn duplicate(&self) -> Box<dyn Disk> {
        Box::new(self.clone())
    }

    fn read(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let disk = self.lock();
        if disk.is_dead() {
            return broken();
        }
        Ok(disk.names.get(name).map(|inode| disk.inodes[*inode].visible.clone()))
    }

    fn write_new(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.step();
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
        let mut disk = self.step();
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
        let mut disk = self.step();
        disk.step().or_else(|()| broken())?;
        disk.durable_names = disk.names.clone();
        Ok(())
    }

    fn open(&mut self, name: &str) -> io::Result<()> {
        let mut disk = self.step();
        disk.step().or_else(|()| broken())?;
        let inode = disk.names.get(name).copied();
        drop(disk);
        self.open = inode;
        Ok(())
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.step();
        let wrong = disk.step();
        if disk.is_dead() {
            return broken();
        }
        let (inode, at) = (self.open.unwrap(), usize::try_from(at).unwrap());
        let kept = if wrong.is_err() { disk.random(bytes.len()) } else { bytes.len() };
        disk.write(inode, at, &bytes[..kept]);
        wrong.or_else(|()| broken())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.step();
        let wrong = disk.step();
        if disk.is_dead() {
            return broken();
        }
        let inode = self.open.unwrap();
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

/// What a gateway does beside its commits.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Beside {
    /// The journal is written anew all the time.
    compacts: bool,
    /// One mark of each commit is deferred first.
    defers: bool,
    /// Before which step of each job a commit comes; after the last one if there are fewer.
    commit_at: usize,
}

const ALONE: Beside = Beside { compacts: false, defers: false, commit_at: 0 };

/// What was given out as durable.
#[derive(Clone, Default)]
struct Given(Arc<Mutex<BTreeSet<u64>>>);

impl Given {
    fn all(&self) -> BTreeSet<u64> {
        self.0.lock().unwrap().clone()
    }

    fn commit(&self, state: &mut State, n: u64) {
        if state.commit(&[seen(n), seen(n + 1)]).is_ok() {
            self.0.lock().unwrap().extend([n, n + 1]);
        } else {
            assert!(state.is_poisoned());
        }
    }
}

/// Twelve commits of two marks each, with jobs beside them, on the disk as it is. Which marks were
/// given out as durable.
fn work(disk: &Faulty, from: u64, beside: Beside) -> BTreeSet<u64> {
    let given = Given::default();
    let opened = State::open_on(Box::new(disk.clone()), "here", NOW, false, None);
    let Ok((state, recovered)) = opened else { return given.all() };
    assert!(recovered.intact, "{:?}", recovered.why);
    let state = Arc::new(Mutex::new(state));
    let mut next = from;
    while next < from + 24 {
        next = turn(disk, &state, &given, next, beside);
        let mut state = state.lock().unwrap();
        if state.is_poisoned() {
            assert!(state.commit(&[seen(from)]).is_err(), "no commit before it is read again");
            let Ok(recovered) = state.reopen(NOW) else { break };
            assert!(recovered.intact, "{:?}", recovered.why);
            assert!(held(&recovered.ledger).is_superset(&given.all()));
        }
    }
    given.all()
}

/// One commit, or one job with a commit in its middle. The next number.
fn turn(disk: &Faulty, shared: &Arc<Mutex<State>>, given: &Given, n: u64, beside: Beside) -> u64 {
    let mut state = shared.lock().unwrap();
    if beside.compacts {
        state.limit = 0;
    }
    if beside.defers {
        state.defer(&[seen(n)]);
    }
    let Some(job) = state.job() else {
        given.commit(&mut state, n);
        return n + 2;
    };
    drop(state);
    let (theirs, told) = (Arc::clone(shared), given.clone());
    let commit = move || told.commit(&mut theirs.lock().unwrap(), n);
    *disk.between.lock().unwrap() = Some((beside.commit_at, Box::new(commit)));
    let done = job.run();
    let late = disk.between.lock().unwrap().take();
    if let Some((_, commit)) = late {
        commit();
    }
    let mut state = shared.lock().unwrap();
    let is_fine = !state.is_poisoned();
    if state.finish(done).is_err() && is_fine && !state.is_poisoned() {
        assert!(beside.compacts, "only the sum may fail without harm");
    }
    n + 2
}

fn all_kinds() -> Vec<Beside> {
    let mut kinds = vec![ALONE];
    for (compacts, defers) in [(false, true), (true, false), (true, true)] {
        // No job has more than two steps.
        kinds.extend((0..3).map(|commit_at| Beside { compacts, defers, commit_at }));
    }
    kinds
}

fn steps_of(beside: Beside) -> usize {
    let disk = Faulty::default();
    assert_eq!(work(&disk, 0, beside).len(), 24, "{beside:?}");
    disk.lock().steps
}

/// `before` is a disk with some commits.
fn survives(before: &Platter, fate: Fate, beside: Beside, at: usize, seed: u64) {
    let disk = Faulty::of(before);
    let mut platter = disk.lock();
    platter.random = seed;
    platter.fate = Some((platter.steps + at, fate));
    drop(platter);
    let mut given: BTreeSet<u64> = (0..24).collect();
    given.extend(work(&disk, 100, beside));
    let mut platter = disk.lock();
    platter.fate = None;
    // A power cut after every fate but SIGKILL: what was only read from a cache is gone then.
    if fate != Fate::Killed {
        platter.cut();
    }
    drop(platter);
    let after = work(&disk, 200, beside);
    assert_eq!(after.len(), 24, "{fate:?} at {at}, {beside:?}: it works again");
    disk.lock().cut();
    let (_, recovered) = State::open_on(Box::new(disk), "here", NOW, false, None).unwrap();
    assert!(recovered.intact, "{fate:?} at {at}, {beside:?}: a false alarm: {:?}", recovered.why);
    given.extend(after);
    let missing: Vec<u64> = given.difference(&held(&recovered.ledger)).copied().collect();
    assert!(missing.is_empty(), "{fate:?} at {at}, {beside:?}, seed {seed}: lost {missing:?}");
}

#[test]
fn whatever_step_it_is_killed_at_no_durable_mark_is_lost_and_no_false_alarm_given() {
    let disk = Faulty::default();
    work(&disk, 0, ALONE);
    let before = disk.lock().clone();
    for beside in all_kinds() {
        let seeds = if beside == ALONE { 3 } else { 1 };
        for at in 1..=steps_of(beside) {
            for fate in [Fate::Killed, Fate::PowerCut, Fate::Error, Fate::Dead] {
                for seed in 0..seeds {
                    survives(&before, fate, beside, at, 3 * at as u64 + seed);
                }
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
                disk.lock().random = seed;
                disk.lock().fate = Some((at, fate));
                let given = work(&disk, 0, ALONE);
                disk.lock().fate = None;
                if fate == Fate::PowerCut {
                    disk.lock().cut();
                }
                let opened = State::open_on(Box::new(disk), "here", NOW, false, None);
                let (_, recovered) = opened.unwrap();
                assert!(recovered.intact, "{fate:?} at {at}: {:?}", recovered.why);
                assert!(held(&recovered.ledger).is_superset(&given));
            }
        }
    }
}

fn opened(disk: &Faulty) -> State {
    State::open_on(Box::new(disk.clone()), "here", NOW, false, None).unwrap().0
}

/// What a start after a power cut finds. Names may or may not have changed before it.
fn after_power_cut(disk: &Faulty) -> BTreeSet<u64> {
    let mut both = Vec::new();
    for seed in 1..20 {
        let copy = Faulty::of(&disk.lock());
        copy.lock().random = seed;
        copy.lock().cut();
        let (_, recovered) = State::open_on(Box::new(copy), "here", NOW, false, None).unwrap();
        assert!(recovered.intact, "{:?}", recovered.why);
        both.push(held(&recovered.ledger));
    }
    both.iter().skip(1).fold(both[0].clone(), |all, one| &all & one)
}

#[test]
fn a_commit_is_one_write_one_sync_and_a_mark_also_with_what_was_deferred() {
    let disk = Faulty::default();
    let mut state = opened(&disk);
    for deferred in [false, true] {
        let before = disk.lock().steps;
        if deferred {
            state.defer(&[seen(300)]);
        }
        state.commit(&(0..50).map(seen).collect::<Vec<_>>()).unwrap();
        assert_eq!(disk.lock().steps - before, 3);
    }
    assert!(!state.is_deferred());
    assert!(after_power_cut(&disk).contains(&300));
}

#[test]
fn what_was_deferred_is_durable_after_a_job_and_costs_the_loop_no_step() {
    let disk = Faulty::default();
    let mut state = opened(&disk);
    let before = disk.lock().steps;
    state.defer(&[seen(1)]);
    let job = state.job().unwrap();
    assert!(state.job().is_none(), "one at a time");
    assert_eq!(disk.lock().steps, before);
    let done = job.run();
    assert!(after_power_cut(&disk).contains(&1));
    assert!(state.is_deferred(), "nobody was told");
    state.finish(done).unwrap();
    assert!(!state.is_deferred());
    assert!(state.job().is_none());
}

#[test]
fn a_commit_does_not_wait_for_a_job_that_hangs_and_the_job_harms_nothing_when_it_ends() {
    let disk = Faulty::default();
    let mut state = opened(&disk);
    state.defer(&[seen(1)]);
    let hangs = state.job().unwrap();
    state.commit(&[seen(2)]).unwrap();
    assert!(after_power_cut(&disk).is_superset(&[1, 2].into()), "the deferred one came with it");
    state.defer(&[seen(3)]);
    state.commit(&[seen(4)]).unwrap();
    assert!(state.reopen_job(NOW).is_none(), "its files are in use");
    let late = hangs.run();
    assert!(after_power_cut(&disk).is_superset(&[1, 2, 3, 4].into()));
    state.finish(late).unwrap();
    state.commit(&[seen(5)]).unwrap();
    assert!(after_power_cut(&disk).is_superset(&[1, 2, 3, 4, 5].into()));
}

#[test]
fn commits_go_on_while_the_journal_is_written_anew_and_whichever_file_is_left_has_them() {
    let disk = Faulty::default();
    let mut state = opened(&disk);
    state.commit(&[seen(1)]).unwrap();
    state.limit = 0;
    let mut n = 2;
    let mut jobs = 0;
    while let Some(job) = state.job() {
        for moment in ["before", "during", "after"] {
            if moment == "during" {
                jobs += 1;
            }
            state.commit(&[seen(n)]).unwrap();
            n += 1;
            assert_eq!(after_power_cut(&disk), (1..n).collect(), "{moment} job {jobs}");
        }
        state.finish(job.run()).unwrap();
        state.commit(&[seen(n)]).unwrap();
        n += 1;
        assert_eq!(after_power_cut(&disk), (1..n).collect(), "after job {jobs}");
    }
    assert_eq!(jobs, 2, "the sum, the name; what came since was written by a commit");
    let before = disk.lock().steps;
    state.commit(&[seen(n)]).unwrap();
    assert_eq!(disk.lock().steps - before, 3, "one file again");
}

#[test]
fn what_was_committed_while_the_sum_was_written_is_caught_up_by_a_job() {
    let disk = Faulty::default();
    let mut state = opened(&disk);
    state.limit = 0;
    let sum = state.job().unwrap();
    state.commit(&[seen(1)]).unwrap();
    state.finish(sum.run()).unwrap();
    for left in [2, 1, 0] {
        assert_eq!(after_power_cut(&disk), [1].into(), "{left} jobs left");
        match state.job() {
            Some(job) => drop(state.finish(job.run()).unwrap()),
            None => assert_eq!(left, 0),
        }
    }
    assert!(state.next.is_none());
}

#[test]
fn a_sum_that_takes_too_long_is_given_up_and_nothing_else() {
    let disk = Faulty::default();
    let mut state = opened(&disk);
    state.limit = 0;
    let sum = state.job().unwrap();
    state.commit(&vec![seen(1); CATCH_UP + 1]).unwrap();
    state.finish(sum.run()).unwrap();
    assert!(state.next.is_none() && state.job().is_none());
    state.commit(&[seen(2)]).unwrap();
    assert_eq!(after_power_cut(&disk), [1, 2].into());
}

#[test]
fn what_was_deferred_survives_a_commit_that_fails_and_the_reading_after_it() {
    let disk = Faulty::default();
    let mut state = opened(&disk);
    state.defer(&[seen(1)]);
    let at = disk.lock().steps + 1;
    disk.lock().fate = Some((at, Fate::Error));
    assert!(state.commit(&[seen(2)]).is_err() && state.is_poisoned());
    state.defer(&[seen(3)]);
    assert!(state.job().is_none(), "only reading helps");
    let job = state.reopen_job(NOW).unwrap();
    state.finish(job.run()).unwrap().unwrap();
    state.commit(&[seen(4)]).unwrap();
    assert!(after_power_cut(&disk).is_superset(&[1, 3, 4].into()));
}

#[test]
fn a_job_that_cannot_write_stops_the_commits_until_the_state_was_read_again() {
    let disk = Faulty::default();
    let mut state = opened(&disk);
    state.defer(&[seen(1)]);
    let job = state.job().unwrap();
    let at = disk.lock().steps + 2;
    disk.lock().fate = Some((at, Fate::Error));
    assert!(state.finish(job.run()).is_err());
    assert!(state.commit(&[seen(2)]).is_err());
    state.reopen(NOW).unwrap();
    state.commit(&[seen(2)]).unwrap();
    assert_eq!(after_power_cut(&disk), [1, 2].into());
}

#[test]
fn of_the_newest_time_only_the_last_is_deferred_and_nothing_that_would_spoil_a_commit() {
    let mut state = opened(&Faulty::default());
    for n in 0..1000 {
        state.defer(&[Record::Newest { wall: Wall(n) }]);
    }
    let opened = crate::core::openings::OpeningEntry {
        id: 1,
        door: "d".to_owned(),
        source: "192.0.2.1".parse().unwrap(),
        stop: crate::core::openings::CommandLine::Shell("x".repeat(9000)),
        opened: NOW,
        timeout: 1,
    };
    state.defer(&[Record::Opened(opened)]);
    assert_eq!(state.deferred, [Record::Newest { wall: Wall(999) }]);
}

#[test]
fn a_journal_that_grew_is_written_anew_and_stays_small() {
    let disk = Faulty::default();
    let mut state = opened(&disk);
    let mut largest = 0;
    for n in 0..20_000 {
        let client = ClientId([u8::try_from(n % 7).unwrap(); 16]);
        state.commit(&[Record::Seen { client, timestamp: Wall(n) }]).unwrap();
        state.maintain_now().unwrap();
        largest = largest.max(state.journal.tail.at);
    }
    assert!(largest <= COMPACT + 1000 && state.journal.tail.at < COMPACT, "{largest}");
    let ledger = state.reopen(NOW).unwrap().ledger;
    for n in 0..20_000 {
        let client = ClientId([u8::try_from(n % 7).unwrap(); 16]);
        assert!(ledger.marks().any(|(id, marks)| id == client && marks.covered(Wall(n))), "{n}");
    }
}
