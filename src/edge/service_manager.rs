//! Tells the service manager that the process is ready and well, as in sd_notify(3).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable with the path of the service manager's socket, or with an abstract name after `@`.
pub const SOCKET: &str = "NOTIFY_SOCKET";

/// Reports that this process now serves. Never waits. Does nothing without a service manager. Try
/// again after `WouldBlock`: until it is told, the manager considers the start as hanging.
pub fn ready() -> io::Result<()> {
    match std::env::var_os(SOCKET) {
        Some(name) => send(&name, b"READY=1"),
        None => Ok(()),
    }
}

/// Reports that this process is well, if the service manager watches it. Never waits.
pub fn well() -> io::Result<()> {
    match std::env::var_os(SOCKET) {
        Some(name) if is_watched() => send(&name, b"WATCHDOG=1"),
        _ => Ok(()),
    }
}

/// True if the service manager wants to be told that this process is well. Another process may have
/// left the variables to us, meant for itself.
fn is_watched() -> bool {
    let ours = std::process::id().to_string();
    std::env::var_os("WATCHDOG_USEC").is_some()
        && std::env::var_os("WATCHDOG_PID").is_none_or(|pid| pid == *ours)
}

fn send(name: &OsStr, word: &[u8]) -> io::Result<()> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(hidden) => SocketAddr::from_abstract_name(hidden)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(word, &address)?;
    Ok(())
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
        send(path.as_os_str(), b"READY=1").unwrap();
        assert_eq!(heard(&manager), b"READY=1");
        let name = format!("toctoc-test-{}", std::process::id());
        let manager =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(OsStr::new(&format!("@{name}")), b"READY=1").unwrap();
        assert_eq!(heard(&manager), b"READY=1");
        assert!(send(place.path().join("nobody").as_os_str(), b"READY=1").is_err());
    }

    #[test]
    fn a_manager_that_does_not_read_keeps_nobody_waiting() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let _manager = UnixDatagram::bind(&path).unwrap();
        let error = (0..1_000_000).find_map(|_| send(path.as_os_str(), b"READY=1").err());
        assert_eq!(error.unwrap().kind(), io::ErrorKind::WouldBlock);
    }
}
