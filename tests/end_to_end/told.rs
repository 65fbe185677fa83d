//! What a gateway tells: the log in a file and its search, numbers for Prometheus, a hook.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};

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

/// The whole answer to a request for this path.
fn get(mut stream: impl Read + Write, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("it reads");
    let mut told = String::new();
    stream.read_to_string(&mut told).expect("it answers");
    told
}

#[test]
fn a_complaint_finds_its_line_also_after_a_rotation_and_hooks_and_numbers_know_of_it() {
    let mut gate = Gate::new(|config| config);
    let (log, prom, seen) = (gate.path("log"), gate.path("toctoc.prom"), gate.path("seen"));
    let socket = gate.path("metrics");
    gate.edit_config(|config| {
        let hook = format!("[\"/bin/sh\", \"-c\", \"cat >>{seen}\"]");
        config + &format!("\n[hook.x]\nevents = [\"refused\"]\nrun = {hook}\n")
    });
    gate.start();
    gate.edit_config(|config| {
        config
            .replace("to = \"stderr\"", &format!("to = \"{log}\""))
            .replace("form = \"text\"", "form = \"json\"")
            .replace("# listen = \"127.0.0.1:9180\"", &format!("listen = \"{socket}\""))
            .replace("seconds = 15\n", &format!("seconds = 1\ntextfile = \"{prom}\"\n"))
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
    let numbers = [
        "toctoc_events_total{event=\"refused\"} 1\n",
        "toctoc_grants{service=\"ssh\"} 1\n",
        "toctoc_grants{service=\"rdp\"} 0\n",
    ];
    let has_numbers = |text: &str| numbers.iter().all(|number| text.contains(number));
    until("the textfile has it", || fs::read_to_string(&prom).is_ok_and(|text| has_numbers(&text)));
    // `make metrics-test` gives it to promtool.
    if let Some(copy) = std::env::var_os("TOCTOC_METRICS") {
        fs::copy(&prom, copy).expect("a copy");
    }
    let told = get(UnixStream::connect(&socket).expect("it listens"), "/metrics");
    assert!(told.starts_with("HTTP/1.1 200 OK") && has_numbers(&told), "{told}");
    assert!(told.ends_with("# EOF\n"), "OpenMetrics, as its head says");
    assert!(ok(&gate.toctocd(&["metrics"])).ends_with("# EOF\n"));
    let json: serde_json::Value =
        serde_json::from_str(&ok(&gate.toctocd(&["metrics", "--json"]))).expect("JSON");
    assert_eq!(json["samples"]["toctoc_grants{service=\"ssh\"}"], 1);

    // Elsewhere, and without a textfile: what is not kept up to date goes away.
    gate.edit_config(|config| {
        config.replace(&socket, "127.0.0.1:9180").replace("textfile = ", "# textfile = ")
    });
    gate.reload();
    until("the old places are gone", || {
        !fs::exists(&socket).unwrap() && !fs::exists(&prom).unwrap()
    });
    let scrape = || {
        let stream = gate.net.gateway.inside(|| TcpStream::connect("127.0.0.1:9180"));
        get(stream.expect("it listens"), "/metrics")
    };
    assert!(has_numbers(&scrape()));
    // Where nothing can listen it goes on as before.
    gate.edit_config(|config| config.replace("127.0.0.1:9180", "/nonexistent/metrics"));
    gate.reload();
    until("it says so", || {
        let warnings = found(&gate, &["--event", "warning"]);
        warnings.iter().any(|event| event["text"].to_string().contains("/nonexistent"))
    });
    assert!(has_numbers(&scrape()));
    if let Some(prometheus) = std::env::var_os("TOCTOC_PROMETHEUS") {
        is_scraped_by(&gate, Command::new(prometheus));
    }
}

/// A real Prometheus, in the gateway's namespace, has the numbers and no complaint.
fn is_scraped_by(gate: &Gate, mut prometheus: Command) {
    let config = gate.path("prometheus.yml");
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/monitoring/toctoc.rules.yml");
    let text = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{rules}]\n\
         scrape_configs: [{{job_name: toctoc, static_configs: [{{targets: [\"127.0.0.1:9180\"]}}]}}]\n"
    );
    fs::write(&config, text).expect("our own file");
    prometheus.arg(format!("--config.file={config}"));
    prometheus.arg(format!("--storage.tsdb.path={}", gate.path("tsdb")));
    prometheus.arg("--web.listen-address=127.0.0.1:9090");
    let _running = gate.net.gateway.spawn(prometheus.stdout(Stdio::null()).stderr(Stdio::null()));
    let ask = |path: &str| {
        let stream = gate.net.gateway.inside(|| TcpStream::connect("127.0.0.1:9090"));
        stream.map(|stream| get(stream, path)).unwrap_or_default()
    };
    until("it has the grant of ssh", || {
        ask("/api/v1/query?query=toctoc_grants").contains("\"service\":\"ssh\"")
    });
    let targets = ask("/api/v1/targets");
    assert!(
        targets.contains("\"health\":\"up\"") && targets.contains("\"lastError\":\"\""),
        "{targets}"
    );
    until("its rules are evaluated", || {
        let rules = ask("/api/v1/rules");
        rules.matches("\"health\":\"ok\"").count() >= 11 && !rules.contains("\"health\":\"err\"")
    });
}
