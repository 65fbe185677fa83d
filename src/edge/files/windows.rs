//! Who may use a file, by its access list on Windows, and what else differs there. See `files`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::path::Path;

use super::access_list::{Exposure, exposure};
use super::{Fault, FileCheck, exposed, io_fault};
use crate::edge::sys;

/// Opens a link itself, and not what it leads to.
const OPEN_REPARSE_POINT: u32 = 0x0020_0000;

/// Checks the open file. A file in its place would belong to whoever put it there.
pub(super) fn open_checked(path: &Path, check: FileCheck) -> Result<File, Fault> {
    let file = OpenOptions::new().read(true).custom_flags(OPEN_REPARSE_POINT).open(path);
    let file = file.map_err(|error| io_fault(path, &error))?;
    let metadata = file.metadata().map_err(|error| io_fault(path, &error))?;
    if !metadata.is_file() {
        let what = format!("{}: not a regular file", path.display());
        return Err(Fault::new(what, "name the file itself"));
    }
    let sddl = sys::access(&file).map_err(|error| io_fault(path, &error))?;
    let user = user().map_err(|error| io_fault(path, &error))?;
    let Some(found) = exposure(&sddl, &user, check == FileCheck::Secret) else { return Ok(file) };
    let shown = path.display();
    let what = match &found {
        Exposure::Owner(sid) => format!("{shown}: belongs to {sid}, and not to you"),
        Exposure::Reader(sid) => format!("{shown}: holds secrets, but others may read it ({sid})"),
        Exposure::Writer(sid) => format!("{shown}: others may write it ({sid})"),
    };
    let remedy = match found {
        Exposure::Owner(_) => format!("takeown /f \"{shown}\""),
        Exposure::Reader(_) | Exposure::Writer(_) => format!(
            "first icacls \"{shown}\" /reset, then icacls \"{shown}\" /inheritance:r /grant:r *{}:F",
            sys::user().map_err(|error| io_fault(path, &error))?
        ),
    };
    Err(exposed(what, remedy))
}

/// The user's SID as access lists have it: an administrator's may have a short name.
fn user() -> io::Result<String> {
    let owner = sys::normal(&format!("O:{}", sys::user()?))?;
    Ok(owner.trim_start_matches("O:").to_owned())
}

pub(super) fn mode(_: &Path) -> Option<u32> {
    None
}

/// Only the user, the system and administrators may use it: what OpenSSH demands of a private key.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    sys::create(path, &format!("D:P(A;;FA;;;{})(A;;FA;;;SY)(A;;FA;;;BA)", sys::user()?))
}

/// A new file is private, whatever it holds.
pub(super) fn set_mode(_: &File, _: u32) -> io::Result<()> {
    Ok(())
}

pub(super) fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

pub(super) fn make_directory(path: &Path, _: u32) -> io::Result<()> {
    std::fs::create_dir_all(path)
}

/// Nobody looks: what a killed program left stays.
pub(super) fn has_ended(_: i32) -> bool {
    false
}
