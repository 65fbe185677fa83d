//! Counts the instructions of what happens per packet and per knock, and compares them with the
//! figures of `figures.txt`: more than 5 % from one of them fails. Instructions do not depend on
//! how busy the machine is.
//!
//! usage: toctoc-counts   (in a network namespace of its own: `make bench-check` does all;
//! TOCTOC_COUNTS=write keeps the new figures)

mod operations;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use operations::OPERATIONS;

/// How far a count may be from its figure, in percent.
const TOLERANCE: f64 = 5.0;

fn main() -> ExitCode {
    if std::env::args().any(|word| word == "--measured") {
        operations::run();
        return ExitCode::SUCCESS;
    }
    if !has_the_processor() {
        eprintln!("counts: the figures are those of an x86_64 processor with AVX2: not compared");
        return ExitCode::SUCCESS;
    }
    let counts = count();
    let figures = Path::new(env!("CARGO_MANIFEST_DIR")).join("figures.txt");
    if std::env::var_os("TOCTOC_COUNTS").is_some_and(|word| word == "write") {
        fs::write(figures, table(&counts)).expect("our own file");
        return ExitCode::SUCCESS;
    }
    compare(&counts, &read(&fs::read_to_string(figures).expect("the figures are committed")))
}

/// The crypto crates choose their code by the processor; valgrind knows none beyond AVX2.
#[cfg(target_arch = "x86_64")]
fn has_the_processor() -> bool {
    std::is_x86_feature_detected!("avx2")
}
#[cfg(not(target_arch = "x86_64"))]
fn has_the_processor() -> bool {
    false
}

/// Runs this program under callgrind. The instructions of one call of each operation.
fn count() -> BTreeMap<String, u64> {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("counted");
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--compress-strings=no", "--compress-pos=no"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe().expect("our own path"))
        .arg("--measured")
        .status()
        .expect("valgrind is installed: `make bench-check` installs it");
    assert!(status.success(), "the operations failed: {status}");
    let counts = calls(&fs::read_to_string(file).expect("callgrind wrote it"));
    for operation in OPERATIONS {
        assert!(counts.contains_key(operation), "callgrind saw no call of {operation}");
    }
    counts
}

/// The mean cost of a call of each operation. Callgrind writes `cfn=` with the name of a function
/// that is called, `calls=` with how often, and then a line that ends with the cost of these calls.
fn calls(text: &str) -> BTreeMap<String, u64> {
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut called = None;
    let mut times = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("cfn=") {
            called = name.split("::").find_map(operation);
        } else if let Some(rest) = line.strip_prefix("calls=") {
            times = rest.split(' ').next().and_then(|word| word.parse::<u64>().ok());
        } else if let Some(times) = times.take()
            && let Some(name) = called.take()
        {
            let cost = line.rsplit(' ').next().and_then(|word| word.parse::<u64>().ok());
            let sum = sums.entry(name).or_default();
            sum.0 += times;
            sum.1 += cost.expect("a cost follows the calls");
        }
    }
    sums.into_iter().map(|(name, (times, cost))| (name.to_owned(), cost / times)).collect()
}

fn operation(word: &str) -> Option<&'static str> {
    OPERATIONS.into_iter().find(|name| *name == word)
}

const HEAD: &str = "\
# Instructions of one call, x86_64 with AVX2. Written by TOCTOC_COUNTS=write make bench-check.
";

fn table(counts: &BTreeMap<String, u64>) -> String {
    let mut text = HEAD.to_owned();
    for name in OPERATIONS {
        writeln!(text, "{name} {}", counts[name]).expect("a string");
    }
    text
}

fn read(text: &str) -> BTreeMap<String, u64> {
    let mut figures = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, number) = line.split_once(' ').expect("a name and a number");
        figures.insert(name.to_owned(), number.parse().expect("a number"));
    }
    figures
}

fn compare(counts: &BTreeMap<String, u64>, figures: &BTreeMap<String, u64>) -> ExitCode {
    let mut status = ExitCode::SUCCESS;
    println!("{:<24}{:>12}{:>12}{:>10}", "instructions", "figure", "now", "change");
    for name in OPERATIONS {
        let now = counts[name];
        let Some(figure) = figures.get(name).copied() else {
            println!("{name:<24}{:>12}{now:>12}  no figure", "-");
            status = ExitCode::FAILURE;
            continue;
        };
        let change = (now as f64 / figure as f64 - 1.0) * 100.0;
        let is_off = change.abs() > TOLERANCE;
        println!(
            "{name:<24}{figure:>12}{now:>12}{change:>+9.1}%{}",
            if is_off { "  OFF" } else { "" }
        );
        if is_off {
            status = ExitCode::FAILURE;
        }
    }
    if status == ExitCode::FAILURE {
        eprintln!(
            "counts: more than {TOLERANCE} % from a figure: make it as fast as before, or keep the new \
             figures with TOCTOC_COUNTS=write and say why in the commit"
        );
    }
    status
}
