//! Compares classic doors with the real knockd in one run: the same configuration and commands, in
//! separate namespaces. It prints figures and ratios and fails on none. See docs/benchmarks.md for
//! the figures of a quiet machine.
//!
//! usage: cargo bench --bench classic [-- KNOCKS COLUMN...]   (as root, or inside
//! tools/in-namespaces; `make bench` does all)

#[path = "../../tests/harness/mod.rs"]
#[allow(dead_code)] // a part of it is enough here
mod harness;

mod contestant;
mod measure;
mod processors;
mod table;

use contestant::{Contestant, Kind};
use measure::Figures;

fn main() {
    // Cargo adds `--bench`. The other arguments are the number of knocks and the columns.
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let knocks = words.iter().find_map(|word| word.parse().ok()).unwrap_or(100);
    let names: Vec<&String> = words.iter().filter(|word| word.parse::<usize>().is_err()).collect();
    processors::of_measurement().assign(0);
    let mut columns = Vec::new();
    for kind in Kind::ALL {
        if !names.is_empty() && !names.iter().any(|name| *name == kind.title()) {
            continue;
        }
        if !kind.is_installed() {
            eprintln!("{}: not installed, skipped", kind.title());
            continue;
        }
        eprintln!("measuring {} ...", kind.title());
        let mut contestant = Contestant::start(kind);
        columns.push((kind, Figures::of(&mut contestant, knocks)));
    }
    table::print(&columns, knocks);
}
