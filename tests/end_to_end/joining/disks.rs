//! Joining while the gateway's disk is full or cannot be written: who is told what, and that
//! nothing is lost.

use std::fs;
use std::io::Write;
use std::process::{Command, Output};

use super::Party;
use crate::harness::gate::{Gate, SSH, ok, stderr};
use crate::harness::until;

/// A gateway whose state is on a disk of its own, which only that toctocd sees.
struct DiskParty {
    party: Party,
    /// That disk, as this test sees it.
    state: std::path::PathBuf,
}

impl DiskParty {
    fn new() -> DiskParty {
        let mut gate = Gate::new(|config| config);
        let state = gate.start_on_small_disk(256);
        let ssh = gate.net.gateway.tcp_echo(SSH);
        DiskParty { party: Party { gate, _ssh: ssh }, state }
    }

    /// Runs a program where the gateway's disk is seen.
    fn run(&mut self, program: &str, words: &[&str]) -> Output {
        let pid = self.party.gate.daemon().process.0.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "--mount", "--", program]).args(words);
        self.party.gate.net.gateway.run(&mut command)
    }

    fn toctocd(&mut self, words: &[&str]) -> Output {
        let config = self.party.gate.config().display().to_string();
        self.run(env!("CARGO_BIN_EXE_toctocd"), &[words, &["-c", &config]].concat())
    }

    /// Makes a key and invites its owner; the file with the line.
    fn invite(&mut self, name: &str) -> String {
        self.party.key(name);
        let line = self.party.gate.path(&format!("{name}.line"));
        ok(&self.toctocd(&invitation(name, &line)));
        line
    }

    /// Makes a directory or file of the gateway read-only, or writable again.
    fn lock(&mut self, path: &str, is_locked: bool) {
        let words = match is_locked {
            true => format!("mount --bind {path} {path} && mount -o remount,bind,ro {path}"),
            false => format!("umount {path}"),
        };
        ok(&self.run("sh", &["-c", &words]));
    }
}

fn invitation<'a>(name: &'a str, line: &'a str) -> [&'a str; 9] {
    ["invite", name, "--services", "ssh", "--gateway-name", name, "--auto", "-o", line]
}

/// Who asks while the file `joined` cannot be written is told so, and joins by the same command
/// once it can.
fn is_refused_without_loss(
    disk: &mut DiskParty, line: &str, why: &str, heal: impl FnOnce(&mut DiskParty),
) {
    let refused = disk.party.join(line, "dora");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = stderr(&refused);
    assert!(said.contains("refused: the gateway could not write down who joins"), "{said}");
    assert!(said.contains("its log says why `dora` cannot join"), "{said}");
    assert_eq!(disk.party.has("dora"), [false, false]);
    let logged = disk.party.gate.daemon().wait_for("nobody joined: ");
    assert!(logged.contains("state/joined") && logged.contains(why), "{logged}");
    // An admin's command says the same, and leaves no line that is worth nothing.
    let more = disk.party.gate.path("emil.line");
    let invited = disk.toctocd(&invitation("emil", &more));
    assert!(!invited.status.success() && stderr(&invited).contains(why), "{invited:?}");
    assert!(fs::metadata(&more).is_err());
    let list = ok(&disk.toctocd(&["client", "list"]));
    assert!(list.contains("dora") && list.contains("invited until"), "{list}");
    assert!(!list.contains("emil"), "{list}");
    // Whoever was in gets in.
    ok(&disk.party.toctoc("anna", "open anna -4"));

    heal(disk);
    ok(&disk.party.join(line, "dora"));
    ok(&disk.party.toctoc("dora", "open dora -4"));
    disk.invite("emil");
}

#[test]
fn a_full_disk_keeps_who_joins_waiting_and_loses_neither_invitation_nor_client() {
    let mut disk = DiskParty::new();
    disk.party.gate.enrol("anna", "ssh");
    let line = disk.invite("dora");
    let fill = disk.state.join("fill");
    let mut file = fs::File::create(&fill).unwrap();
    until("the disk is full", || file.write_all(&[0; 4096]).is_err());
    drop(file);
    is_refused_without_loss(&mut disk, &line, "the disk is full", |_| {
        fs::remove_file(&fill).unwrap();
    });
}

#[test]
fn a_read_only_directory_keeps_who_joins_waiting_and_loses_nothing() {
    let mut disk = DiskParty::new();
    disk.party.gate.enrol("anna", "ssh");
    let line = disk.invite("dora");
    let state = disk.party.gate.path("etc/state");
    disk.lock(&state, true);
    is_refused_without_loss(&mut disk, &line, "the file system is read-only", |disk| {
        disk.lock(&state, false);
    });
}

#[test]
fn who_joins_needs_no_clients_file_that_can_be_written() {
    let mut disk = DiskParty::new();
    disk.party.gate.enrol("anna", "ssh");
    let clients = disk.party.gate.path("etc/clients");
    let before = fs::read_to_string(&clients).unwrap();
    disk.lock(&clients, true);
    let line = disk.invite("dora");
    ok(&disk.party.join(&line, "dora"));
    ok(&disk.party.toctoc("dora", "open dora -4"));
    ok(&disk.toctocd(&["client", "revoke", "dora"]));
    assert!(!ok(&disk.toctocd(&["client", "list"])).contains("dora"));
    assert_eq!(fs::read_to_string(&clients).unwrap(), before);
}
