use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

use super::*;

/// Runs the test `child_process` of this very program as a process of its own, to confine it and
/// see what becomes of it.
fn child(deed: &str) -> (ExitStatus, String) {
    run(&mut Command::new(std::env::current_exe().unwrap()), deed)
}

/// The same in a new user namespace that knows one id.
fn child_alone(deed: &str) -> (ExitStatus, String) {
    let mut unshare = Command::new("unshare");
    run(unshare.args(["--user", "--map-root-user"]).arg(std::env::current_exe().unwrap()), deed)
}

/// The same as root that may not become anybody else, as below Debian's unit file for knockd.
fn child_bound(deed: &str) -> (ExitStatus, String) {
    let mut bound = Command::new("setpriv");
    bound.args(["--inh-caps=-all", "--bounding-set=-all,+net_raw", "--"]);
    run(bound.arg(std::env::current_exe().unwrap()), deed)
}

fn run(command: &mut Command, deed: &str) -> (ExitStatus, String) {
    let output = command
        .args(["--exact", "edge::confine::tests::child_process", "--nocapture", "--test-threads=1"])
        .env("TOCTOC_TEST_DEED", deed)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

const DONE: i32 = 42;
const REFUSED: i32 = 43;
const NOBODY: (u32, u32) = (65534, 65534);

fn user() -> Option<(u32, u32)> {
    Uid::effective().is_root().then_some(NOBODY)
}

#[test]
fn child_process() {
    let Ok(deed) = std::env::var("TOCTOC_TEST_DEED") else { return };
    match deed.as_str() {
        "root stays root" => refused(confine(None, 4)),
        "becomes root" => refused(confine(Some((0, 0)), 4)),
        "half root" => refused(confine(Some((65534, 0)), 4)),
        "becomes nobody" => refused(confine(Some(NOBODY), 4)),
        "notes of root" => {
            let notes = confine(None, 4).unwrap_or_else(|failure| panic!("{}", failure.fault()));
            std::process::exit(i32::try_from(notes.bits()).unwrap());
        }
        "open as root" => {
            confine(None, 4).unwrap_or_else(|failure| panic!("{}", failure.fault()));
            drop(File::open("/dev/null"));
        }
        _ => {}
    }
    let file = File::open("/dev/null").unwrap();
    if Uid::effective().is_root() && !IdMap::read().unwrap().single() {
        // Something to lose.
        unistd::setgroups(&[Gid::from_raw(0), Gid::from_raw(4)]).unwrap();
    }
    let notes = confine(user(), 4).unwrap_or_else(|failure| panic!("{}", failure.fault()));
    match deed.as_str() {
        "nothing" => {}
        "open" => drop(File::open("/dev/null")),
        "write" => drop(nix::unistd::write(io::stdout(), b"x")),
        "read" => drop(nix::unistd::read(&file, &mut [0; 1])),
        "socket" => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
        "exec" => drop(Command::new("/bin/true").status()),
        "thread" => drop(std::thread::Builder::new().spawn(|| ())),
        "kill" => drop(nix::sys::signal::kill(nix::unistd::Pid::from_raw(1), None)),
        "memory" => {
            assert_eq!(vec![1u8; 64 << 20].iter().map(|b| usize::from(*b)).sum::<usize>(), 64 << 20)
        }
        "entropy" => drop(crate::edge::entropy::bytes::<32>().unwrap()),
        "notes" => std::process::exit(i32::try_from(notes.bits()).unwrap()),
        deed => panic!("{deed}"),
    }
    std::process::exit(DONE);
}

fn refused(outcome: Result<Limitations, Failure>) {
    std::process::exit(if outcome.is_err_and(|failure| failure.step == ConfineStep::User) {
        REFUSED
    } else {
        1
    });
}

#[test]
fn a_confined_process_still_computes_gets_memory_and_entropy() {
    for deed in ["nothing", "memory", "entropy"] {
        let (status, stderr) = child(deed);
        assert_eq!(status.code(), Some(DONE), "{deed}: {status} {stderr}");
    }
}

#[test]
fn whatever_else_a_confined_process_tries_kills_it() {
    for deed in ["open", "write", "read", "socket", "exec", "thread", "kill"] {
        let (status, stderr) = child(deed);
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{deed}: {status} {stderr}");
    }
}

#[test]
fn root_must_become_somebody_else() {
    if !Uid::effective().is_root() || IdMap::read().unwrap().single() {
        return eprintln!("skipped: needs root and another user to become");
    }
    for deed in ["root stays root", "becomes root", "half root"] {
        let (status, stderr) = child(deed);
        assert_eq!(status.code(), Some(REFUSED), "{deed}: {status} {stderr}");
    }
}

#[test]
fn root_that_cannot_become_somebody_else_stays_behind_landlock_or_is_refused() {
    if !Uid::effective().is_root() || IdMap::read().unwrap().single() {
        return eprintln!("skipped: needs root and another user to become");
    }
    let (status, stderr) = child_bound("becomes nobody");
    assert_eq!(
        status.code(),
        Some(REFUSED),
        "who was asked for is not dropped in silence: {status} {stderr}"
    );
    let (status, stderr) = child_bound("notes of root");
    let notes = Limitations::from_bits(status.code().unwrap_or(-1).cast_unsigned());
    assert!(
        status.code().is_some_and(|code| code != 101) && notes.has(Limitation::UserKept),
        "{notes:?} {stderr}"
    );
    let (status, stderr) = child_bound("open as root");
    assert_eq!(status.signal(), Some(libc::SIGSYS), "{status} {stderr}");
    let mapped =
        |users: &str| IdMap { users: users.into(), groups: users.into(), may_set_groups: true };
    let mut none = Limitations::default();
    none.add(Limitation::NoLandlock);
    assert!(no_root_without_landlock(&mapped("0 0 4294967295\n"), none).is_err());
    assert!(no_root_without_landlock(&mapped("0 0 4294967295\n"), Limitations::default()).is_ok());
    assert!(
        no_root_without_landlock(&mapped("0 1000 1\n"), none).is_ok(),
        "root over nothing but its own files"
    );
}

#[test]
fn with_root_and_a_new_kernel_nothing_is_left_out() {
    if !Uid::effective().is_root() || IdMap::read().unwrap().single() {
        return eprintln!("skipped: needs root and another user to become");
    }
    let (status, stderr) = child("notes");
    let notes = Limitations::from_bits(status.code().unwrap_or(-1).cast_unsigned());
    let kernel_s = [Limitation::LandlockPartly, Limitation::NoLandlock];
    assert!(
        status.code().is_some() && notes.iter().all(|note| kernel_s.contains(&note)),
        "{notes:?} {stderr}"
    );
}

#[test]
fn where_nobody_else_can_be_become_that_is_said_and_all_else_is_given_up() {
    let (status, stderr) = child_alone("notes");
    let notes = Limitations::from_bits(status.code().unwrap_or(-1).cast_unsigned());
    // Had it kept a capability, its own check would have ended it.
    assert!(
        status.code().is_some_and(|code| code != 101) && notes.has(Limitation::UserKept),
        "{notes:?} {stderr}"
    );
    let (status, stderr) = child_alone("open");
    assert_eq!(status.signal(), Some(libc::SIGSYS), "{status} {stderr}");
}

#[test]
fn an_id_is_looked_up_in_the_map_of_the_user_namespace() {
    let whole = "         0          0 4294967295\n";
    assert!(in_map(whole, 0) && in_map(whole, 65534));
    let single = "         0       1000          1\n";
    assert!(in_map(single, 0) && !in_map(single, 1) && !in_map(single, 65534));
    let two = "0 1000 1\n1 100000 65536\n";
    assert!(in_map(two, 65536) && !in_map(two, 65537));
    for nonsense in ["", "x y z", "1", "0 0 x", "0 0 -1"] {
        assert!(!in_map(nonsense, 0), "{nonsense}");
    }
}

#[test]
fn steps_and_notes_survive_the_pipe_and_nonsense_does_not() {
    let failure = Failure { step: ConfineStep::Landlock, errno: libc::EPERM };
    assert_eq!(Failure::from_pipe(failure.step as u8, failure.errno), Some(failure));
    assert!(failure.fault().what.contains("landlock"));
    assert_eq!(Failure::from_pipe(0, 0), None);
    assert_eq!(Failure::from_pipe(200, 0), None);
    let mut notes = Limitations::default();
    notes.add(Limitation::UserKept);
    notes.add(Limitation::Inherited);
    assert_eq!(Limitations::from_bits(notes.bits() | 0xff00_0000), notes);
    assert_eq!(notes.iter().collect::<Vec<_>>(), [Limitation::UserKept, Limitation::Inherited]);
}
