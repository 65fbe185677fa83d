//! The figures in columns, and their ratios to those of knockd.

use crate::contestant::Kind;
use crate::measure::{Figures, Flood};

/// One line: its label, the figure of a column, and the number of decimals.
type Line = (&'static str, fn(&Figures) -> Option<f64>, usize);

const LINES: [Line; 11] = [
    ("knock to command, median ms", |f| rank(&f.to_command, 0.5), 2),
    ("knock to command, p99 ms", |f| rank(&f.to_command, 0.99), 2),
    ("knock to connect, median ms", |f| rank(&f.to_connect, 0.5), 2),
    ("knock to connect, p99 ms", |f| rank(&f.to_connect, 0.99), 2),
    ("CPU per knock, ms", |f| f.cpu_per_knock, 2),
    ("CPU per million unrelated, s", |f| f.unrelated.as_ref().map(|flood| flood.cpu), 2),
    ("  knocks through, of 40", |f| f.unrelated.as_ref().map(|flood| flood.through as f64), 0),
    ("CPU per million junk, s", |f| f.junk.as_ref().map(|flood| flood.cpu), 2),
    ("  knocks through, of 40", |f| f.junk.as_ref().map(|flood| flood.through as f64), 0),
    ("memory, KiB", |f| f.memory.map(|(before, _)| before as f64), 0),
    ("  after 10,000 half-knocks", |f| f.memory.map(|(_, after)| after as f64), 0),
];

/// Prints the whole table.
pub(crate) fn print(columns: &[(Kind, Figures)], knocks: usize) {
    let heads = columns.iter().map(|(kind, _)| format!("{:>16}", kind.title()));
    println!("{:30}{}", format!("{knocks} knocks"), heads.collect::<String>());
    for (label, figure, digits) in LINES {
        print!("{label:30}");
        for (_, figures) in columns {
            match figure(figures) {
                Some(value) => print!("{value:>16.digits$}"),
                None => print!("{:>16}", "-"),
            }
        }
        println!();
    }
    let Some((_, knockd)) = columns.iter().find(|(kind, _)| *kind == Kind::Knockd) else { return };
    println!("\nknockd's figure divided by this one's");
    for (label, figure, _) in LINES.iter().filter(|(label, ..)| !label.starts_with(' ')) {
        print!("{label:30}");
        for (_, figures) in columns {
            match (figure(knockd), figure(figures)) {
                (Some(knockd), Some(this)) if this > 0.0 => print!("{:>16.1}", knockd / this),
                _ => print!("{:>16}", "-"),
            }
        }
        println!();
    }
    let floods =
        columns.iter().flat_map(|(_, figures)| figures.unrelated.iter().chain(&figures.junk));
    let rates: Vec<String> = floods.map(|flood: &Flood| format!("{:.0}", flood.rate)).collect();
    let lost = columns.iter().map(|(_, figures)| (knocks - figures.to_connect.len()).to_string());
    println!("\npackets a second of the floods: {}", rates.join(", "));
    println!("knocks that did not open, by column: {}", lost.collect::<Vec<_>>().join(", "));
    println!(
        "load average: {}",
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
}

/// The value at this share of sorted values, rounded up.
fn rank(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}
