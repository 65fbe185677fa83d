//! A person with a home directory, and a real sshd that lets them in.

use std::fs;
use std::process::{Command, Stdio};

use super::gate::{Gate, SSH, ok};
use super::{Running, until};

/// Makes the home directory of [`as_person`].
pub fn make_person(gate: &Gate) {
    fs::create_dir_all(gate.path("person/.ssh")).unwrap();
    let passwd = format!("root:x:0:0:root:{}:/bin/sh\n", gate.path("person"));
    fs::write(gate.path("passwd"), passwd).unwrap();
}

/// A command of the person whose home directory is `person` below the gate's directory. ssh goes by
/// the user's entry in the password file, whatever HOME says.
pub fn as_person(gate: &Gate, words: &[&str]) -> Command {
    let line = "mount --bind \"$1\" /etc/passwd && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", line, "sh", &gate.path("passwd")]);
    command.args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("HOME", gate.path("person")).env("XDG_CONFIG_HOME", gate.path("home"));
    command.stdin(Stdio::null());
    command
}

/// Starts the real sshd in the gateway, which lets in who has a key of the file `keys`, and waits
/// until it listens.
pub fn start_sshd(gate: &Gate, keys: &str) -> Running {
    let path = |name: &str| gate.path(&format!("sshd-{name}"));
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f", &path("host")])
        .output();
    ok(&made.expect("ssh-keygen is there"));
    let config = format!(
        "Port {SSH}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nPidFile none\nUsePAM no\n",
        path("host"),
        keys,
    );
    fs::write(path("config"), config).unwrap();
    // Its own /run: sshd wants a directory there.
    let line =
        "mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -e -f \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", line, "sh", &path("config")]);
    let log = fs::File::create(path("log")).unwrap();
    let sshd = gate.net.gateway.spawn(command.stderr(log));
    let said = || fs::read_to_string(path("log")).unwrap();
    until("sshd listens", || said().contains("Server listening"));
    sshd
}

/// True where sshd may change users, which a complete login needs.
pub fn is_real_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}
