use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

use nix::cmsg_space;
use nix::sys::socket::{MsgFlags, recvmsg, sendmsg};

use super::*;

/// Runs the test `child_process` of this program as a separate process that confines itself and
/// then does `deed`.
fn child(deed: &str) -> (ExitStatus, String) {
    run(&mut Command::new(std::env::current_exe().unwrap()), deed)
}

/// The same in a new user namespace that has one id.
fn child_in_namespace(deed: &str) -> (ExitStatus, String) {
    let mut unshare = Command::new("unshare");
    run(unshare.args(["--user", "--map-root-user"]).arg(std::env::current_exe().unwrap()), deed)
}

/// The same as root that may not become another user, as under Debian's unit file for knockd.
fn child_bounded(deed: &str) -> (ExitStatus, String) {
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

fn ids(map: &str) -> IdMap {
    IdMap { users: parse_map(map), groups: parse_map(map), may_set_groups: true }
}

fn user() -> Option<(u32, u32)> {
    if Uid::effective().is_root() { Some(NOBODY) } else { None }
}

#[test]
fn child_process() {
    let Ok(deed) = std::env::var("TOCTOC_TEST_DEED") else { return };
    match deed.as_str() {
        "root stays root" => refused(confine(None, 4, &[])),
        "becomes root" => refused(confine(Some((0, 0)), 4, &[])),
        "half root" => refused(confine(Some((65534, 0)), 4, &[])),
        "becomes nobody" => refused(confine(Some(NOBODY), 4, &[])),
        "limitations of root" => {
            let limitations =
                confine(None, 4, &[]).unwrap_or_else(|failure| panic!("{}", failure.fault()));
            std::process::exit(i32::try_from(limitations.bits()).unwrap());
        }
        "open as root" => {
            confine(None, 4, &[]).unwrap_or_else(|failure| panic!("{}", failure.fault()));
            drop(File::open("/dev/null"));
        }
        _ => {}
    }
    let file = File::open("/dev/null").unwrap();
    if Uid::effective().is_root() && !IdMap::read().unwrap().has_one_user() {
        // Groups that it must drop.
        unistd::setgroups(&[Gid::from_raw(0), Gid::from_raw(4)]).unwrap();
    }
    let (pipe, other) = UnixDatagram::pair().unwrap();
    let limitations =
        confine(user(), 6, &[pipe.as_fd()]).unwrap_or_else(|failure| panic!("{}", failure.fault()));
    let send = |socket: &UnixDatagram| {
        let nothing = [io::IoSlice::new(b"x")];
        let _ = sendmsg::<()>(socket.as_raw_fd(), &nothing, &[], MsgFlags::empty(), None);
    };
    match deed.as_str() {
        "nothing" => {}
        "open" => drop(File::open("/dev/null")),
        "write" => drop(nix::unistd::write(io::stdout(), b"x")),
        "read" => drop(nix::unistd::read(&file, &mut [0; 1])),
        "socket" => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
        "exec" => drop(Command::new("/bin/true").status()),
        "thread" => drop(std::thread::Builder::new().spawn(|| ())),
        "send" => send(&pipe),
        "send on another descriptor" => send(&other),
        "send to an address" => drop(pipe.send(b"x")),
        "take a descriptor" => {
            let mut room = cmsg_space!([i32; 1]);
            let _ = recvmsg::<()>(0, &mut [], Some(&mut room), MsgFlags::empty());
        }
        "kill" => drop(nix::sys::signal::kill(nix::unistd::Pid::from_raw(1), None)),
        "memory" => {
            assert_eq!(vec![1u8; 64 << 20].iter().map(|b| usize::from(*b)).sum::<usize>(), 64 << 20)
        }
        "entropy" => drop(crate::edge::entropy::bytes::<32>().unwrap()),
        "limitations" => std::process::exit(i32::try_from(limitations.bits()).unwrap()),
        deed => panic!("{deed}"),
    }
    std::process::exit(DONE);
}

fn refused(outcome: Result<Limitations, ConfineFailure>) {
    match outcome {
        Err(ConfineFailure { step: ConfineStep::User, .. }) => std::process::exit(REFUSED),
        _ => std::process::exit(1),
    }
}

#[test]
fn a_confined_process_still_computes_gets_memory_and_entropy() {
    for deed in ["nothing", "memory", "entropy", "send"] {
        let (status, stderr) = child(deed);
        assert_eq!(status.code(), Some(DONE), "{deed}: {status} {stderr}");
    }
}

#[test]
fn any_other_system_call_kills_a_confined_process() {
    for deed in [
        "open",
        "write",
        "read",
        "socket",
        "exec",
        "thread",
        "kill",
        "send on another descriptor",
        "send to an address",
        "take a descriptor",
    ] {
        let (status, stderr) = child(deed);
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{deed}: {status} {stderr}");
    }
}

#[test]
fn root_must_become_another_user() {
    if !Uid::effective().is_root() || IdMap::read().unwrap().has_one_user() {
        return eprintln!("skipped: needs root and another user to become");
    }
    for deed in ["root stays root", "becomes root", "half root"] {
        let (status, stderr) = child(deed);
        assert_eq!(status.code(), Some(REFUSED), "{deed}: {status} {stderr}");
    }
}

#[test]
fn root_that_cannot_become_another_user_is_under_landlock_or_refused() {
    if !Uid::effective().is_root() || IdMap::read().unwrap().has_one_user() {
        return eprintln!("skipped: needs root and another user to become");
    }
    let (status, stderr) = child_bounded("becomes nobody");
    assert_eq!(
        status.code(),
        Some(REFUSED),
        "the user asked for is not ignored: {status} {stderr}"
    );
    let (status, stderr) = child_bounded("limitations of root");
    let limitations = Limitations::from_bits(status.code().unwrap_or(-1).cast_unsigned());
    assert!(
        status.code().is_some_and(|code| code != 101) && limitations.has(Limitation::UserKept),
        "{limitations:?} {stderr}"
    );
    let (status, stderr) = child_bounded("open as root");
    assert_eq!(status.signal(), Some(libc::SIGSYS), "{status} {stderr}");
    let mut no_landlock = Limitations::default();
    no_landlock.add(Limitation::NoLandlock);
    let all = ids("0 0 4294967295\n");
    assert!(refuse_root_without_landlock(&all, no_landlock).is_err());
    assert!(refuse_root_without_landlock(&all, Limitations::default()).is_ok());
    assert!(
        refuse_root_without_landlock(&ids("0 1000 1\n"), no_landlock).is_ok(),
        "root with no power over files of others"
    );
}

#[test]
fn with_root_and_a_new_kernel_there_are_no_limitations() {
    if !Uid::effective().is_root() || IdMap::read().unwrap().has_one_user() {
        return eprintln!("skipped: needs root and another user to become");
    }
    let (status, stderr) = child("limitations");
    let limitations = Limitations::from_bits(status.code().unwrap_or(-1).cast_unsigned());
    // And the user of this test.
    let by_kernel = [Limitation::LandlockPartly, Limitation::NoLandlock, Limitation::UserShared];
    assert!(
        status.code().is_some() && limitations.iter().all(|one| by_kernel.contains(&one)),
        "{limitations:?} {stderr}"
    );
}

#[test]
fn without_another_user_that_is_reported_and_all_else_is_given_up() {
    let (status, stderr) = child_in_namespace("limitations");
    let limitations = Limitations::from_bits(status.code().unwrap_or(-1).cast_unsigned());
    // With a capability left, its own check would have ended it.
    assert!(
        status.code().is_some_and(|code| code != 101) && limitations.has(Limitation::UserKept),
        "{limitations:?} {stderr}"
    );
    let (status, stderr) = child_in_namespace("open");
    assert_eq!(status.signal(), Some(libc::SIGSYS), "{status} {stderr}");
}

#[test]
fn the_map_of_a_user_namespace_lists_its_ids() {
    let whole = ids("         0          0 4294967295\n");
    assert!(whole.contains(0, 0) && whole.contains(65534, 0) && !whole.has_one_user());
    let single = ids("         0       1000          1\n");
    assert!(single.contains(0, 0) && single.has_one_user());
    assert!(!single.contains(1, 0) && !single.contains(0, 65534));
    let two = ids("0 1000 1\n1 100000 65536\n");
    assert!(two.contains(65536, 0) && !two.contains(65537, 0));
    for nonsense in ["", "x y z", "1", "0 0 x", "0 0 -1"] {
        assert!(!ids(nonsense).contains(0, 0), "{nonsense}");
    }
}

#[test]
fn a_processor_without_a_list_of_system_calls_is_named_and_so_are_those_that_have_one() {
    for name in ["x86_64", "aarch64", "riscv64"] {
        assert!(syscalls::architecture(name).is_ok(), "{name}");
    }
    for name in ["arm", "x86", "powerpc64", "s390x", "mips"] {
        let fault = syscalls::architecture(name).err().unwrap().fault();
        assert!(fault.what.contains("no list of system calls for this processor"), "{fault}");
        assert!(fault.remedy.contains("x86_64, aarch64 and riscv64"), "{fault}");
    }
}

#[test]
fn steps_and_limitations_survive_the_pipe_and_nonsense_does_not() {
    let failure = ConfineFailure { step: ConfineStep::Landlock, errno: libc::EPERM };
    assert_eq!(ConfineFailure::from_pipe(failure.step as u8, failure.errno), Some(failure));
    assert!(failure.fault().what.contains("landlock"));
    assert_eq!(ConfineFailure::from_pipe(0, 0), None);
    assert_eq!(ConfineFailure::from_pipe(200, 0), None);
    let mut limitations = Limitations::default();
    limitations.add(Limitation::UserKept);
    limitations.add(Limitation::Inherited);
    assert_eq!(Limitations::from_bits(limitations.bits() | 0xff00_0000), limitations);
    assert_eq!(
        limitations.iter().collect::<Vec<_>>(),
        [Limitation::UserKept, Limitation::Inherited]
    );
}
