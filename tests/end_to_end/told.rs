//! What a gateway tells: the log in a file and its search, numbers for Prometheus, a hook.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Output;

use crate::harness::gate::{Gate, ok, stderr};
use crate::harness::until;

/// The id that a refused or unanswered client was told last.
fn id_told(output: &Output) -> String {
    let told = stderr(output);
    let id = told.trim_end().rsplit(' ').next().unwrap_or_default().to_owned();
    assert_eq!(id.len(), 8, "{told}");
    id
}

fn found(gate: &Gate, words: &[&str]) -> Vec<serde_json::Value> {
    let answer = ok(&gate.toctocd(&[&["log", "--json"], words].concat()));
    let mut answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    serde_json::from_value(answer["events"].take()).expect("a list")
}

#[test]
fn a_complaint_finds_its_line_also_after_a_rotation_and_hooks_and_numbers_know_of_it() {
    let mut gate = Gate::new(|config| config);
    let (log, prom, seen) = (gate.path("log"), gate.path("toctoc.prom"), gate.path("seen"));
    let socket = gate.path("metrics");
    gate.edit_config(|config| {
        config
            .replace("# listen = \"127.0.0.1:9180\"", &format!("listen = \"{socket}\""))
            .replace("seconds = 15\n", &format!("seconds = 1\ntextfile = \"{prom}\"\n"))
            + &format!(
                "\n[hook.x]\nevents = [\"refused\"]\nrun = [\"/bin/sh\", \"-c\", \"cat >>{seen}\"]\n"
            )
    });
    gate.start();
    gate.edit_config(|config| {
        let config = config.replace("to = \"stderr\"", &format!("to = \"{log}\""));
        config.replace("form = \"text\"", "form = \"json\"")
    });
    gate.reload();
    let laptop = gate.enrol("laptop", "ssh");
    laptop.must_open(&gate.net.client, "ssh", 0);
    let refused = gate.toctoc_as("laptop", "open laptop rdp -4");
    let id = id_told(&refused);
    fs::rename(&log, format!("{log}.1")).expect("a rotation");
    gate.reload();
    until("the log has been opened again", || fs::metadata(&log).is_ok());
    let [event] = &found(&gate, &["--id", &id])[..] else { panic!("one event of {id}") };
    assert_eq!((&event["event"], &event["reason"]), (&"refused".into(), &"denied".into()));
    assert_eq!((&event["client"], &event["service"]), (&"laptop".into(), &"rdp".into()));
    let granted = found(&gate, &["--client", "laptop", "--event", "granted", "--since", "1h"]);
    assert_eq!(granted.len(), 1, "{granted:?}");
    assert!(found(&gate, &["--client", "nobody"]).is_empty());
    until("the hook has run", || fs::read_to_string(&seen).is_ok_and(|text| text.contains(&id)));
    let refusals = "toctoc_events_total{event=\"refused\"} 1\n";
    until("the textfile has it", || {
        fs::read_to_string(&prom).is_ok_and(|text| text.contains(refusals))
    });
    let mut stream = UnixStream::connect(&socket).expect("it listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
    let mut told = String::new();
    stream.read_to_string(&mut told).expect("it answers");
    assert!(told.starts_with("HTTP/1.1 200 OK") && told.contains(refusals), "{told}");
    assert!(ok(&gate.toctocd(&["metrics"])).ends_with("# EOF\n"));
    // `make metrics-test` gives it to promtool.
    if let Some(copy) = std::env::var_os("TOCTOC_METRICS") {
        fs::copy(&prom, copy).expect("a copy");
    }
}
