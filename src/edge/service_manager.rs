//! Word to the service manager that started us, as sd_notify(3) describes it: that we are ready.
//! When that is so is left to the callers.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where a manager that waits for word listens: a path, or the name of an abstract socket after
/// `@`.
const SOCKET: &str = "NOTIFY_SOCKET";

/// Says that this process serves from now on. Without a manager that waits nothing happens.
///
/// # Errors
/// The manager cannot be reached. It will then take us for one that hangs, so somebody should hear
/// of it.
pub fn ready() -> io::Result<()> {
    std::env::var_os(SOCKET).map_or(Ok(()), |name| tell(&name))
}

fn tell(name: &OsStr) -> io::Result<()> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(hidden) => SocketAddr::from_abstract_name(hidden)?,
        None => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(manager: &UnixDatagram) -> Vec<u8> {
        let mut word = [0; 64];
        let length = manager.recv(&mut word).unwrap();
        word[..length].to_vec()
    }

    #[test]
    fn the_manager_hears_it_by_a_path_and_by_an_abstract_name() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        tell(path.as_os_str()).unwrap();
        assert_eq!(heard(&manager), b"READY=1");
        let name = format!("toctoc-test-{}", std::process::id());
        let manager =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        tell(OsStr::new(&format!("@{name}"))).unwrap();
        assert_eq!(heard(&manager), b"READY=1");
        assert!(tell(place.path().join("nobody").as_os_str()).is_err());
    }
}
