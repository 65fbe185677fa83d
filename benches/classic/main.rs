//! Classic doors beside the real knockd, in one run: the same configuration and commands, in
//! namespaces made for it. Prints figures and ratios and judges nothing; what they were on a quiet
//! machine stands in docs/benchmarks.md.
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
    // Cargo adds `--bench`; what is left may say how many knocks, and of whom.
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let knocks = words.iter().find_map(|word| word.parse().ok()).unwrap_or(100);
    let names: Vec<&String> = words.iter().filter(|word| word.parse::<usize>().is_err()).collect();
    processors::ours().take(0);
    let mut columns = Vec::new();
    for kind in Kind::ALL
        .into_iter()
        .filter(|kind| names.is_empty() || names.iter().any(|name| *name == kind.title()))
    {
        if !kind.is_installed() {
            eprintln!("{}: not installed, left out", kind.title());
            continue;
        }
        eprintln!("measuring {} ...", kind.title());
        let mut contestant = Contestant::start(kind);
        columns.push((kind, Figures::of(&mut contestant, knocks)));
    }
    table::print(&columns, knocks);
}
