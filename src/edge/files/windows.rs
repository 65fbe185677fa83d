//! Windows has no modes: a file below the user's profile is the user's. See `files`.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use super::{Fault, FileCheck, io_fault};

pub(super) fn open_checked(path: &Path, _: FileCheck) -> Result<File, Fault> {
    let metadata = std::fs::symlink_metadata(path).map_err(|error| io_fault(path, &error))?;
    if !metadata.is_file() {
        let what = format!("{}: not a regular file", path.display());
        return Err(Fault::new(what, "name the file itself"));
    }
    File::open(path).map_err(|error| io_fault(path, &error))
}

pub(super) fn mode(_: &Path) -> Option<u32> {
    None
}

pub(super) fn make_private(_: &mut OpenOptions) {}

pub(super) fn set_mode(_: &File, _: u32) -> io::Result<()> {
    Ok(())
}

pub(super) fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

pub(super) fn make_directory(path: &Path, _: u32) -> io::Result<()> {
    std::fs::create_dir_all(path)
}
