//! The change from fwknop: the real fwknopd accepts what `toctocd convert --fwknop` accepts, and
//! whom a stanza let in can join and open the same by the invitation that replaces it.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use crate::harness::gate::{Gate, SSH, ok, stderr};
use crate::harness::{LONG, SHORT, schema};

/// A configuration without its services.
fn without_services(config: String) -> String {
    let config = format!("\n{config}");
    let kept = config.split("\n[").filter(|section| !section.starts_with("service."));
    kept.collect::<Vec<_>>().join("\n[")
}

/// Writes the files of one configuration of the table into the gate's folder `fwknop`.
fn write(gate: &Gate, body: &str) {
    let folder = gate.path("fwknop");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(format!("{folder}/more")).unwrap();
    let body = format!("--- fwknopd.conf\n\n--- access.conf\n{}\n", body.trim_end_matches('\n'));
    for file in body.replace("%DIR%", &folder).split("--- ").skip(1) {
        let (name, text) = file.split_once('\n').unwrap();
        let path = format!("{folder}/{name}");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
}

/// Runs `toctoc` as a person who has nothing but these files.
fn toctoc(gate: &Gate, words: &[&str], input: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_toctoc"));
    command.args(words).stdin(input);
    command.env("HOME", gate.path("person")).env("XDG_CONFIG_HOME", gate.path("person"));
    gate.net.client.space.run(&mut command)
}

#[test]
fn fwknopd_and_convert_accept_the_same_and_check_accepts_what_becomes_of_it() {
    let gate = Gate::new(without_services);
    let config = fs::read_to_string(gate.config()).unwrap();
    let access = gate.path("fwknop/access.conf");
    let server = gate.path("fwknop/fwknopd.conf");
    for case in include_str!("../fwknop-configs.txt").split("\n=== ").skip(1) {
        let (head, body) = case.split_once("\n\n").unwrap();
        write(&gate, body);
        let mut fwknopd = Command::new("/usr/sbin/fwknopd");
        fwknopd.args(["-f", "-a", &access, "-c", &server, "--exit-parse-config"]);
        let said = gate.net.gateway.run(&mut fwknopd);
        let said = String::from_utf8(said.stdout).unwrap() + &String::from_utf8_lossy(&said.stderr);
        let accepts = said.contains("Configs parsed");
        assert_eq!(accepts, head.starts_with('y'), "{head}\n{said}");
        gate.edit_config(|_| config.clone());
        let converted = gate.toctocd(&["convert", "--fwknop", &access, &server]);
        let remarks = stderr(&converted);
        assert_eq!(
            !remarks.contains("fwknopd refuses the whole file"),
            accepts,
            "{head}\n{remarks}"
        );
        let has_bad = head.lines().any(|line| line.starts_with("- "));
        assert_eq!(converted.status.success(), accepts && !has_bad, "{head}\n{remarks}");
        let sections = String::from_utf8(converted.stdout).unwrap();
        let json = gate.toctocd(&["convert", "--fwknop", &access, &server, "--json"]);
        assert_eq!(json.status.code(), converted.status.code());
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        for invitation in json["invitations"].as_array().unwrap() {
            let comment = format!("\n# {}\n", invitation.as_str().unwrap());
            assert!(sections.contains(&comment), "{head}\n{comment}");
        }
        let commands = sections.matches("\n# toctocd invite ").count();
        assert_eq!(json["invitations"].as_array().unwrap().len(), commands, "{head}");
        gate.edit_config(|config| config + &sections);
        gate.check();
    }
}

#[test]
fn whom_a_stanza_let_in_joins_by_its_invitation_and_opens_the_same() {
    let mut gate = Gate::new(without_services);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    write(
        &gate,
        "SOURCE 10.90.0.7/255.255.0.0\nOPEN_PORTS tcp/22\nKEY_BASE64 Zm9vYmFyYmF6\nREQUIRE_USERNAME anna\n\
         FW_ACCESS_TIMEOUT 20\nMAX_FW_TIMEOUT 40\n",
    );
    let access = gate.path("fwknop/access.conf");
    let sections = ok(&gate.toctocd(&["convert", "--fwknop", &access]));
    gate.edit_config(|config| config + &sections);
    gate.start();
    let invitation = sections.lines().find_map(|line| line.strip_prefix("# toctocd "));
    let line = gate.path("line");
    let mut words: Vec<&str> = invitation.expect("a command").split(' ').collect();
    assert_eq!(words[..4], ["invite", "anna", "--services", "ssh"]);
    assert_eq!(words[4..], ["--from", "10.90.0.0/16", "--max-seconds", "40"]);
    words.extend(["--gateway-name", "home", "--auto", "-o", &line]);
    ok(&gate.toctocd(&words));
    let line = Stdio::from(File::open(line).unwrap());
    ok(&toctoc(&gate, &["join", "-", "--no-passphrase"], line));

    // What the client's own file becomes.
    let rc = gate.path("fwknoprc");
    fs::write(&rc, "[home]\nSPA_SERVER 10.90.0.1\nACCESS tcp/22\nFW_TIMEOUT 300\n").unwrap();
    fs::set_permissions(&rc, Permissions::from_mode(0o600)).unwrap();
    let said = ok(&toctoc(&gate, &["convert", &rc], Stdio::null()));
    let json = ok(&toctoc(&gate, &["convert", &rc, "--json"], Stdio::null()));
    assert_eq!(schema::faults("toctoc", &["convert"], &json), [""; 0]);
    let open =
        said.lines().find_map(|line| line.strip_prefix("  toctoc open ")).expect("a command");
    assert!(!gate.net.client.tcp_reaches(gate.port(0, SSH), SHORT));
    // The stanza was for IPv4 alone, as fwknop is.
    let words: Vec<&str> = ["open", "-4"].into_iter().chain(open.split(' ')).collect();
    // It asks for five minutes, and gets what the stanza allowed at most.
    let granted = ok(&toctoc(&gate, &words, Stdio::null()));
    assert!(granted.contains("for 40 s"), "{granted}");
    assert!(gate.net.client.tcp_reaches(gate.port(0, SSH), LONG));
}
