//! On a real disk: the directory, its lock, and what people are told.

use std::fs;

use super::*;

fn open(directory: &Path) -> (State, Recovered) {
    State::open(directory, NOW, true, false).unwrap()
}

#[test]
fn marks_are_there_after_a_restart_and_only_root_can_read_them() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let place = home.path().join("state");
    let (mut state, recovered) = open(&place);
    assert_eq!((recovered.intact, recovered.standing), (true, StateOrigin::First));
    state.commit(&[seen(1), seen(2)]).unwrap();
    state.commit(&[seen(3)]).unwrap();
    drop(state);
    let (_state, recovered) = open(&place);
    assert_eq!((recovered.intact, recovered.standing), (true, StateOrigin::Found));
    assert_eq!(held(&recovered.ledger), [1, 2, 3].into());
    for name in [JOURNAL, USED, LOCK] {
        let mode = fs::metadata(place.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_second_gateway_is_refused_and_told_why() {
    let home = tempfile::tempdir().unwrap();
    let (_first, _) = open(home.path());
    let fault = State::open(home.path(), NOW, true, false).err().unwrap();
    assert!(fault.what.contains("lock: another gateway uses this state: pid "), "{fault}");
}

#[test]
fn a_journal_that_is_missing_on_a_used_host_is_a_loss_until_somebody_accepts_it() {
    let home = tempfile::tempdir().unwrap();
    drop(open(home.path()));
    fs::remove_file(home.path().join(JOURNAL)).unwrap();
    for _ in 0..2 {
        let (_, recovered) = open(home.path());
        assert!(!recovered.intact);
        assert_eq!(recovered.ledger.lost(), Some(NOW));
        let why = recovered.why.unwrap();
        assert!(
            why.what.contains("by challenge only") && why.remedy.contains("toctocd reinitialise"),
            "{why}"
        );
    }
    let (mut state, _) = open(home.path());
    state.commit(&[Record::Reinitialised { at: NOW }]).unwrap();
    drop(state);
    assert!(open(home.path()).1.intact);
}

#[test]
fn damage_is_loud_keeps_the_damaged_file_and_every_mark_around_it() {
    let home = tempfile::tempdir().unwrap();
    let (mut state, _) = open(home.path());
    (0..10).for_each(|n| state.commit(&[seen(n)]).unwrap());
    drop(state);
    let path = home.path().join(JOURNAL);
    let mut bytes = fs::read(&path).unwrap();
    let place = bytes.len() - 4 * 176 - 10;
    bytes[place] ^= 4;
    fs::write(&path, &bytes).unwrap();
    let (_, recovered) = open(home.path());
    assert!(!recovered.intact);
    assert_eq!(held(&recovered.ledger).len(), 9);
    assert_eq!(fs::read(home.path().join(DAMAGED)).unwrap(), bytes);
    assert!(!open(home.path()).1.intact, "also at the next start");
}

#[test]
fn a_torn_tail_is_cut_off_without_a_word() {
    let home = tempfile::tempdir().unwrap();
    let (mut state, _) = open(home.path());
    state.commit(&[seen(1)]).unwrap();
    let (torn, _) = state.journal.tail.batch(&[seen(2)]).unwrap();
    drop(state);
    let path = home.path().join(JOURNAL);
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend(&torn[..torn.len() - 1]);
    fs::write(&path, &bytes).unwrap();
    let (_, recovered) = open(home.path());
    assert_eq!((recovered.intact, held(&recovered.ledger)), (true, [1].into()));
}

#[test]
fn commits_beside_jobs_in_threads_leave_every_mark_in_one_small_file() {
    let home = tempfile::tempdir().unwrap();
    let (mut state, _) = open(home.path());
    let mut thread: Option<std::thread::JoinHandle<StateDone>> = None;
    let mut jobs = 0;
    for n in 0..300 {
        state.limit = 0;
        match n % 3 {
            0 => state.defer(&[seen(n)]),
            _ => state.commit(&[seen(n)]).unwrap(),
        }
        // Now and then it must end, however busy this machine is.
        if let Some(ended) = thread.take_if(|thread| n % 20 == 19 || thread.is_finished()) {
            state.finish(ended.join().unwrap()).unwrap();
            jobs += 1;
        }
        if let Some(job) = state.job() {
            thread = Some(std::thread::spawn(move || job.run()));
        }
    }
    if let Some(last) = thread {
        state.finish(last.join().unwrap()).unwrap();
    }
    state.maintain_now().unwrap();
    assert!(jobs > 10, "{jobs}");
    let written = fs::metadata(home.path().join(JOURNAL)).unwrap().len();
    assert_eq!(written, state.journal.tail.at, "the open file is the one that has the name");
    assert!(!home.path().join(NEXT).exists());
    drop(state);
    let (_, recovered) = open(home.path());
    assert!(recovered.intact);
    assert_eq!(held(&recovered.ledger), (0..300).collect());
}

#[test]
fn a_record_that_is_too_long_spoils_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (mut state, _) = open(home.path());
    let opened = crate::core::openings::OpeningEntry {
        id: 1,
        door: "d".to_owned(),
        source: "192.0.2.1".parse().unwrap(),
        stop: crate::core::openings::CommandLine::Shell("x".repeat(9000)),
        opened: NOW,
        timeout: 1,
    };
    assert!(state.commit(&[seen(1), Record::Opened(opened)]).is_err());
    state.commit(&[seen(2)]).unwrap();
    drop(state);
    assert_eq!(held(&open(home.path()).1.ledger), [2].into());
}

#[test]
fn a_directory_in_memory_is_refused_unless_it_is_allowed() {
    let Ok(home) = tempfile::tempdir_in("/dev/shm") else { return };
    let fault = State::open(home.path(), NOW, false, false).err().unwrap();
    assert!(fault.what.contains("tmpfs") && fault.remedy.contains("state_dir"), "{fault}");
    assert!(State::open(home.path(), NOW, true, false).is_ok());
}

#[test]
fn a_link_in_the_place_of_the_journal_is_not_followed() {
    let home = tempfile::tempdir().unwrap();
    drop(open(home.path()));
    let path = home.path().join(JOURNAL);
    fs::rename(&path, home.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", &path).unwrap();
    assert!(State::open(home.path(), NOW, true, false).is_err());
}

#[test]
fn what_somebody_else_could_have_written_is_never_believed() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let home = tempfile::tempdir().unwrap();
    let place = home.path().join("state");
    drop(open(&place));
    let refused = |place: &Path, words: &str| {
        let faults = [State::open(place, NOW, true, false).err(), State::check(place, true).err()];
        faults
            .into_iter()
            .for_each(|fault| assert!(fault.unwrap().what.contains(words), "{words}"));
    };
    let set_mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o770, 0o702, 0o1777] {
        set_mode(&place, mode);
        refused(&place, "(mode");
    }
    set_mode(&place, 0o700);
    for name in [JOURNAL, USED, LOCK] {
        set_mode(&place.join(name), 0o660);
        refused(&place, "others may write it (mode 0660)");
        set_mode(&place.join(name), 0o600);
    }
    assert!(State::check(&place, true).is_ok());
    let link = home.path().join("link");
    symlink(&place, &link).unwrap();
    refused(&link, "is a link");
    fs::rename(place.join(JOURNAL), home.path().join("forged")).unwrap();
    symlink(home.path().join("forged"), place.join(JOURNAL)).unwrap();
    refused(&place, "");
    fs::remove_file(place.join(JOURNAL)).unwrap();
    nix::unistd::mkfifo(&place.join(JOURNAL), nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused(&place, "not a regular file");
}

#[test]
fn a_state_that_was_made_for_a_new_gateway_tells_a_first_start_from_a_loss() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("state");
    let open = |enrolled| State::open(&directory, NOW, true, enrolled).unwrap();
    State::create(&directory, NOW).unwrap();
    assert_eq!(open(false).1.standing, StateOrigin::First, "nobody can have knocked");
    // Somebody may have put it back as it was before the first knock.
    let (mut state, found) = open(true);
    assert_eq!((found.standing, found.intact), (StateOrigin::Found, true));
    state.commit(&[Record::Newest { wall: NOW }]).unwrap();
    drop(state);
    State::create(&directory, NOW).unwrap();
    assert_eq!(open(false).1.ledger.newest(), NOW, "what exists is not changed");
    std::fs::remove_dir_all(&directory).unwrap();
    let (_, lost) = open(true);
    assert!(!lost.intact && lost.ledger.lost() == Some(NOW));
    assert!(lost.why.unwrap().what.contains("none although clients are enrolled"));
}

#[test]
fn a_journal_that_is_as_long_as_it_may_be_takes_no_more_records_and_is_rewritten() {
    let home = tempfile::tempdir().unwrap();
    let (mut state, _) = open(home.path());
    state.commit(&[seen(1)]).unwrap();
    state.journal.tail.at = disk::LIMIT - 100;
    let fault = state.commit(&[seen(2)]).unwrap_err();
    assert!(fault.what.contains("longer than 1024 MiB"), "{fault}");
    assert!(!state.is_poisoned(), "nothing was written");
    // Deferred records wait, and do not keep the rewriting from its turn.
    state.defer(&[seen(3)]);
    assert!(matches!(state.job(), Some(StateJob { work: Work::Sum(_), .. })));
}

#[test]
fn a_long_journal_is_rewritten_long_before_it_may_be_no_longer() {
    let home = tempfile::tempdir().unwrap();
    let (mut state, _) = open(home.path());
    for (at, limit) in [(5000, COMPACT), (10 << 20, 20 << 20), (800 << 20, 864 << 20)] {
        state.journal.tail.at = at;
        assert_eq!(limit_for(&state.journal), limit);
    }
}
