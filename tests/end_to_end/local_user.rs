//! A local user beside the admin: what it could hold, write or pass on to toctocd.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use crate::harness::gate::{Gate, ok, stderr};
use crate::harness::until;

fn set_mode(path: &str, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Appends a service whose commands are the program `run` with `body`, which is made.
fn with_program(gate: &Gate, body: &str) -> String {
    let program = gate.path("run");
    fs::write(&program, format!("#!/bin/sh\n{body}\n")).unwrap();
    set_mode(&program, 0o755);
    let service = format!("[service.run]\nstart = [\"{program}\"]\nstop = [\"{program}\"]\n");
    gate.edit_config(|config| config + &service);
    program
}

/// True if the process has this file open.
fn holds(pid: &str, file: &str) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .any(|target| target == Path::new(file))
}

#[test]
fn what_toctocd_inherited_goes_neither_to_its_listener_nor_to_a_command() {
    let mut gate = Gate::new(|config| config);
    let seen = gate.path("seen");
    with_program(&gate, &format!("ls -l /proc/$$/fd >{seen}.new; mv {seen}.new {seen}"));
    let passed = gate.path("passed on");
    fs::write(&passed, "").unwrap();
    let line = format!("exec 3<'{passed}' 9>>'{passed}' && exec \"$@\"");
    gate.start_under(&["sh", "-c", &line, "sh"]);
    let pid = gate.daemon().process.0.id().to_string();
    let listener = gate.daemon().listener().to_string();
    assert!(!holds(&pid, &passed) && !holds(&listener, &passed), "it is still open");
    let anna = gate.enrol("anna", "run");
    anna.must_open(&gate.net.client, "run", 0);
    until("the command has run", || Path::new(&seen).exists());
    let open = fs::read_to_string(&seen).unwrap();
    assert!(open.contains("/dev/null") && !open.contains("passed on"), "{open}");
}

#[test]
fn a_program_that_another_user_may_write_is_refused_by_check_start_and_reload() {
    let mut gate = Gate::new(|config| config);
    let program = with_program(&gate, "true");
    set_mode(&program, 0o777);
    let expected =
        format!("service run: its `start` runs as root, but {program}: others may write");
    for command in ["check", "run"] {
        let output = gate.toctocd(&[command]);
        assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
        assert_eq!(output.status.code(), Some(2));
    }
    set_mode(&program, 0o755);
    ok(&gate.toctocd(&["check"]));
    gate.start();
    set_mode(&program, 0o777);
    let refused = gate.toctocd(&["reload"]);
    assert!(stderr(&refused).contains(&expected), "{}", stderr(&refused));
    gate.daemon().wait_for("not reloaded: service run");
}

#[test]
fn a_program_in_the_path_that_another_user_may_write_is_refused_too() {
    let gate = Gate::new(|config| config);
    gate.edit_config(|config| {
        config
            + "[door.d]\nsequence = [\"7411/tcp\", \"2833/udp\", \"9412/tcp\"]\n\
               start_command = \"open-it %IP%\"\n"
    });
    let program = gate.path("open-it");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    let path = format!("{}:{}", gate.path(""), std::env::var("PATH").unwrap());
    for (mode, is_refused) in [(0o755, false), (0o777, true)] {
        set_mode(&program, mode);
        let mut check = Command::new(env!("CARGO_BIN_EXE_toctocd"));
        check.arg("check").arg("-c").arg(gate.config()).env("PATH", &path);
        let said = stderr(&gate.net.gateway.run(&mut check));
        assert_eq!(said.contains("its `start_command` runs as root, but"), is_refused, "{said}");
    }
}

#[test]
fn a_control_socket_where_others_may_write_is_refused_and_a_strangers_is_not_believed() {
    let gate = Gate::new(|config| config);
    let open = gate.path("open");
    fs::create_dir(&open).unwrap();
    set_mode(&open, 0o1777);
    gate.edit_config(|config| {
        config.replace(&gate.path("etc/control"), &format!("{open}/control"))
    });
    for command in ["check", "run"] {
        let output = gate.toctocd(&[command]);
        let expected = format!("{open}: others may write into it (mode 1777)");
        assert!(stderr(&output).contains(&expected), "{command}: {}", stderr(&output));
        assert_eq!(output.status.code(), Some(2));
    }
    // Somebody else answers at that path, and says that all is well.
    let socket = format!("{open}/control");
    let answer = "use IO::Socket::UNIX; $SIG{PIPE} = q(IGNORE); my $s = IO::Socket::UNIX->new(Listen => 1, Local => $ARGV[0]); \
                  while (my $c = $s->accept) { print $c '{\"ok\":{}}', \"\\n\"; close $c }";
    let mut stranger = Command::new("setpriv");
    stranger.args(["--reuid", "65534", "--clear-groups", "perl", "-e", answer, &socket]);
    let _stranger = gate.net.gateway.spawn(&mut stranger);
    until("the stranger listens", || UnixStream::connect(&socket).is_ok());
    let output = gate.toctocd(&["reload"]);
    assert!(stderr(&output).contains("runs as another user"), "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(3));
}
