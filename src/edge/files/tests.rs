//! Unsafe files, each refused with its remedy.

use std::fs::{File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};

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
