//! Unsafe files, each refused with its remedy.

use std::fs::{File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::time::Duration;

use super::*;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn file(directory: &tempfile::TempDir, mode: u32) -> PathBuf {
    let path = directory.path().join("file");
    fs::write(&path, "text").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn a_good_file_is_read() {
    let directory = directory();
    for mode in [0o600, 0o400] {
        let path = file(&directory, mode);
        assert_eq!(&**read(&path, FileCheck::Secret).unwrap(), "text");
        fs::remove_file(path).unwrap();
    }
    let path = file(&directory, 0o644);
    assert_eq!(&**read(&path, FileCheck::Trusted).unwrap(), "text");
}

#[test]
fn a_secret_that_others_may_use_is_refused_with_the_command_that_fixes_it() {
    let directory = directory();
    for mode in [0o640, 0o604, 0o660, 0o610, 0o601, 0o777] {
        let path = file(&directory, mode);
        let fault = read(&path, FileCheck::Secret).unwrap_err();
        assert!(fault.what.contains(&format!("{mode:04o}")), "{fault}");
        assert_eq!(fault.remedy, format!("chmod 600 {}", path.display()));
    }
}

#[test]
fn a_trusted_file_may_be_read_but_not_written_by_others() {
    let directory = directory();
    for (mode, good) in [(0o644, true), (0o664, false), (0o646, false)] {
        let path = file(&directory, mode);
        assert_eq!(read(&path, FileCheck::Trusted).is_ok(), good, "{mode:o}");
    }
}

#[test]
fn a_link_a_directory_and_a_pipe_are_refused() {
    let directory = directory();
    let path = file(&directory, 0o600);
    let link = directory.path().join("link");
    symlink(&path, &link).unwrap();
    let fault = read(&link, FileCheck::Secret).unwrap_err();
    assert!(fault.what.ends_with("is a symbolic link"), "{fault}");
    assert!(fault.remedy.contains(&path.canonicalize().unwrap().display().to_string()), "{fault}");
    assert!(
        read(directory.path(), FileCheck::Trusted).unwrap_err().what.ends_with("is a directory")
    );
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(read(&pipe, FileCheck::Trusted).unwrap_err().what.ends_with("not a regular file"));
    assert!(
        read(&directory.path().join("none"), FileCheck::Trusted)
            .unwrap_err()
            .what
            .ends_with("no such file")
    );
}

#[test]
fn a_directory_that_everybody_may_write_is_refused_unless_sticky() {
    let directory = directory();
    let path = file(&directory, 0o600);
    for (mode, good) in [(0o777, false), (0o1777, true), (0o755, true)] {
        fs::set_permissions(directory.path(), Permissions::from_mode(mode)).unwrap();
        assert_eq!(read(&path, FileCheck::Secret).is_ok(), good, "{mode:o}");
    }
}

#[test]
fn a_file_or_directory_of_another_user_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can give a file away");
        return;
    }
    let directory = directory();
    let path = file(&directory, 0o600);
    chown(&path, Some(65534), None).unwrap();
    let fault = read(&path, FileCheck::Secret).unwrap_err();
    assert!(fault.what.contains("belongs to uid 65534"), "{fault}");
    assert_eq!(fault.remedy, format!("chown 0 {}", path.display()));
    chown(&path, Some(0), None).unwrap();
    chown(directory.path(), Some(65534), None).unwrap();
    assert!(
        read(&path, FileCheck::Secret).unwrap_err().what.contains("could replace the files in it")
    );
}

/// A directory of ours with two below it, and a file in the lower one.
fn nested() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let top = directory();
    let middle = top.path().join("middle");
    fs::create_dir_all(middle.join("own")).unwrap();
    for path in [&middle, &middle.join("own")] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    let path = middle.join("own/file");
    fs::write(&path, "text").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    (top, middle, path)
}

#[test]
fn a_file_of_the_gateway_lies_where_nobody_else_can_replace_any_directory() {
    let (_top, middle, path) = nested();
    let own = parent(&path);
    assert_eq!(&**read_own(&path, FileCheck::Secret).unwrap(), "text");
    for mode in [0o777, 0o775, 0o757, 0o1777, 0o1775, 0o2775] {
        fs::set_permissions(&own, Permissions::from_mode(mode)).unwrap();
        let fault = read_own(&path, FileCheck::Secret).unwrap_err();
        let place = format!("{}: others may write into it (mode {mode:04o})", own.display());
        assert_eq!(fault.what, place);
        assert_eq!(check_own_directory(&own).unwrap_err().what, place);
        assert!(!fault.remedy.is_empty());
    }
    fs::set_permissions(&own, Permissions::from_mode(0o755)).unwrap();
    // Above it a sticky bit suffices, as on /tmp.
    for (mode, good) in [(0o777, false), (0o775, false), (0o1777, true), (0o755, true)] {
        fs::set_permissions(&middle, Permissions::from_mode(mode)).unwrap();
        assert_eq!(read_own(&path, FileCheck::Secret).is_ok(), good, "{mode:o}");
        assert_eq!(check_own_directory(&own).is_ok(), good, "{mode:o}");
        assert_eq!(check_way(&path).is_ok(), good, "{mode:o}");
    }
}

#[test]
fn a_link_is_followed_only_through_directories_that_nobody_else_can_change() {
    let (top, middle, path) = nested();
    let open = top.path().join("open");
    fs::create_dir(&open).unwrap();
    // There and back again, with a relative link on the way.
    symlink(&middle, open.join("link")).unwrap();
    symlink("open/link", top.path().join("link")).unwrap();
    let by_link = top.path().join("link/../middle/own").join(path.file_name().unwrap());
    read_own(&by_link, FileCheck::Secret).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    let fault = read_own(&by_link, FileCheck::Secret).unwrap_err();
    assert!(fault.what.starts_with(&format!("{}: others may", open.display())), "{fault}");
    read_own(&path, FileCheck::Secret).unwrap();
    symlink("round", top.path().join("round")).unwrap();
    let fault = check_place(&top.path().join("round/x")).unwrap_err();
    assert!(fault.what.ends_with("its links lead round in a circle"), "{fault}");
}

#[test]
fn a_directory_or_link_of_another_user_is_refused_wherever_it_is_on_the_way() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can give a file away");
        return;
    }
    let (top, middle, path) = nested();
    let link = top.path().join("link");
    symlink(&middle, &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(65534), None).unwrap();
    let fault = check_own_directory(&link.join("own")).unwrap_err();
    assert!(
        fault.what.starts_with(&format!("{}: belongs to uid 65534", link.display())),
        "{fault}"
    );
    chown(&middle, Some(65534), None).unwrap();
    let fault = read_own(&path, FileCheck::Secret).unwrap_err();
    assert!(fault.what.contains("middle: belongs to uid 65534, who could replace"), "{fault}");
}

#[test]
fn nobody_else_may_write_what_a_path_leads_to_or_make_what_is_missing() {
    let (_top, middle, path) = nested();
    assert!(check_way(&path).unwrap().is_some_and(|metadata| metadata.is_file()));
    fs::set_permissions(&path, Permissions::from_mode(0o775)).unwrap();
    assert!(check_way(&path).unwrap_err().what.ends_with("may write it (mode 0775)"));
    let absent = middle.join("not/there");
    assert!(check_way(&absent).unwrap().is_none());
    fs::set_permissions(&middle, Permissions::from_mode(0o1777)).unwrap();
    assert!(check_way(&absent).is_err());
}

#[test]
fn a_lock_is_held_by_one_waits_for_its_time_and_names_the_holder() {
    let directory = directory();
    let path = directory.path().join("lock");
    let Ok(first) = lock(&path, Duration::ZERO) else { panic!("nobody has it") };
    let Err(LockFault::Held(by)) = lock(&path, Duration::from_millis(50)) else {
        panic!("two have it")
    };
    assert!(by.starts_with(&format!("pid {} (", std::process::id())), "{by}");
    let waiting = path.clone();
    let second = std::thread::spawn(move || lock(&waiting, Duration::from_secs(60)).is_ok());
    drop(first);
    assert!(second.join().unwrap());
}

#[test]
fn a_lock_on_a_file_of_the_same_number_elsewhere_is_another_lock() {
    let locks = "1: FLOCK  ADVISORY  WRITE 17 08:01:4711 0 EOF\n\
        1: -> FLOCK  ADVISORY  WRITE 18 00:2a:4711 0 EOF\n\
        2: POSIX  ADVISORY  WRITE 19 00:2a:4711 0 EOF\n\
        3: FLOCK  ADVISORY  WRITE 20 00:2a:14711 0 EOF\n\
        4: FLOCK  ADVISORY  WRITE 21 00:2a:4711 0 EOF\n";
    assert_eq!(platform::locker(locks, Some("00:2a"), 4711), Some("21"));
    assert_eq!(platform::locker(locks, Some("08:01"), 4711), Some("17"));
    assert_eq!(platform::locker(locks, Some("08:02"), 4711), None);
    assert_eq!(platform::locker(locks, None, 4711), Some("17"));
}

#[test]
fn nobody_else_can_open_a_lock() {
    let directory = directory();
    let path = directory.path().join("lock");
    for (before, good) in [(0o644, true), (0o604, true), (0o660, false), (0o602, false)] {
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(before)).unwrap();
        assert_eq!(lock(&path, Duration::ZERO).is_ok(), good, "{before:o}");
        let after = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(after, if good { 0o600 } else { before });
    }
    fs::remove_file(&path).unwrap();
    symlink(directory.path().join("elsewhere"), &path).unwrap();
    assert!(lock(&path, Duration::ZERO).is_err(), "a link");
}

#[test]
fn a_lock_on_a_file_that_was_replaced_is_known_to_be_of_no_use() {
    let directory = directory();
    let path = directory.path().join("clients");
    let held = lock(&path, Duration::ZERO).ok().expect("nobody else has it");
    assert!(held.is_still_at(&path));
    replace(&path, b"new", 0o600).unwrap();
    assert!(!held.is_still_at(&path), "another command locks the new file");
    fs::remove_file(&path).unwrap();
    assert!(!held.is_still_at(&path));
}

#[test]
fn on_a_disk_without_hard_links_a_new_file_is_made_too_and_none_is_replaced() {
    let directory = directory();
    let path = directory.path().join("new");
    let make = |content: &str| {
        let temporary = write_beside(&path, content.as_bytes(), 0o600).unwrap();
        give_name(&temporary, &path, |_, _| Err(ErrorKind::PermissionDenied.into()))
    };
    make("one").unwrap();
    assert_eq!(make("two").unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::read_to_string(&path).unwrap(), "one");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let gone = directory.path().join("gone");
    let other = directory.path().join("other");
    give_name(&gone, &other, |_, _| Err(ErrorKind::PermissionDenied.into())).unwrap_err();
    let names = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(names, 1, "neither a temporary file nor an empty one is left");
}

#[test]
fn create_never_overwrites() {
    let directory = directory();
    let path = directory.path().join("new");
    create(&path, b"one", 0o600).unwrap();
    assert!(create(&path, b"two", 0o600).unwrap_err().what.contains("exists already"));
    assert_eq!(fs::read(&path).unwrap(), b"one");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    // Not through a dangling link either.
    let link = directory.path().join("link");
    symlink(directory.path().join("elsewhere"), &link).unwrap();
    assert!(create(&link, b"two", 0o600).is_err());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "no temporary file is left");
}

#[test]
fn replace_swaps_the_whole_content_and_follows_no_link() {
    let directory = directory();
    let path = directory.path().join("file");
    let victim = directory.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, &path).unwrap();
    replace(&path, b"new", 0o640).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

#[test]
fn a_file_too_long_and_a_file_that_is_not_text_are_refused() {
    let directory = directory();
    let long = directory.path().join("long");
    File::create(&long).unwrap().set_len(LIMIT + 1).unwrap();
    assert!(read(&long, FileCheck::Trusted).unwrap_err().what.contains("longer than"));
    let binary = directory.path().join("binary");
    fs::write(&binary, [b'a', 0xff]).unwrap();
    assert!(read(&binary, FileCheck::Trusted).unwrap_err().what.contains("byte 1 is not UTF-8"));
}

#[test]
fn what_a_killed_writer_left_goes_with_the_next_write_and_what_a_live_one_has_stays() {
    let directory = directory();
    let path = directory.path().join("file");
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let beside = |name: String| directory.path().join(name);
    let left = beside(format!(".file.{}.tmp", ended.id()));
    let others = [
        beside(format!(".file.{}.tmp", std::os::unix::process::parent_id())),
        beside(format!(".other.{}.tmp", ended.id())),
        beside(".file.x.tmp".to_owned()),
    ];
    for file in others.iter().chain([&left]) {
        fs::write(file, "half").unwrap();
    }
    replace(&path, b"whole", 0o600).unwrap();
    assert!(!left.exists());
    assert!(others.iter().all(|file| file.exists()));
    fs::write(&left, "half").unwrap();
    fs::remove_file(&path).unwrap();
    create(&path, b"whole", 0o600).unwrap();
    assert!(!left.exists());
}
