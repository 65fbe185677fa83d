//! The figures side by side, and how many times better or worse each is than knockd's.
//! Measuring is left to `measure`.

use crate::contestant::Kind;
use crate::measure::{Figures, Flooded};

/// One line: its label, and the figure of a column with the digits to show.
type Line = (&'static str, fn(&Figures) -> Option<f64>, usize);

const LINES: [Line; 11] = [
    ("knock to command, median ms", |f| rank(&f.to_command, 0.5), 2),
    ("knock to command, p99 ms", |f| rank(&f.to_command, 0.99), 2),
    ("knock to connect, median ms", |f| rank(&f.to_connect, 0.5), 2),
    ("knock to connect, p99 ms", |f| rank(&f.to_connect, 0.99), 2),
    ("CPU per knock, ms", |f| f.cpu_per_knock, 2),
    ("CPU per million unrelated, s", |f| f.unrelated.as_ref().map(|flooded| flooded.cpu), 2),
    ("  knocks through, of 40", |f| f.unrelated.as_ref().map(|flooded| flooded.through as f64), 0),
    ("CPU per million junk, s", |f| f.junk.as_ref().map(|flooded| flooded.cpu), 2),
    ("  knocks through, of 40", |f| f.junk.as_ref().map(|flooded| flooded.through as f64), 0),
    ("memory, KiB", |f| f.memory.map(|(before, _)| before as f64), 0),
    ("  after 10,000 half-knocks", |f| f.memory.map(|(_, after)| after as f64), 0),
];

/// Prints all of it.
pub(crate) fn print(columns: &[(Kind, Figures)], knocks: usize) {
    let heads = columns.iter().map(|(kind, _)| format!("{:>16}", kind.title()));
    println!("{:30}{}", format!("{knocks} knocks"), heads.collect::<String>());
    for (label, figure, digits) in LINES {
        let shown = |f: &Figures| {
            figure(f).map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let cells = columns.iter().map(|(_, figures)| format!("{:>16}", shown(figures)));
        println!("{label:30}{}", cells.collect::<String>());
    }
    let Some((_, knockd)) = columns.iter().find(|(kind, _)| *kind == Kind::Knockd) else { return };
    println!("\nknockd's figure divided by this one's");
    for (label, figure, _) in LINES.iter().filter(|(label, ..)| !label.starts_with(' ')) {
        let ratio = |f: &Figures| match (figure(knockd), figure(f)) {
            (Some(theirs), Some(ours)) if ours > 0.0 => format!("{:.1}", theirs / ours),
            _ => "-".to_owned(),
        };
        let cells = columns.iter().map(|(_, figures)| format!("{:>16}", ratio(figures)));
        println!("{label:30}{}", cells.collect::<String>());
    }
    let floods =
        columns.iter().flat_map(|(_, figures)| figures.unrelated.iter().chain(&figures.junk));
    let rates: Vec<String> =
        floods.map(|flooded: &Flooded| format!("{:.0}", flooded.rate)).collect();
    let lost = columns.iter().map(|(_, figures)| (knocks - figures.to_connect.len()).to_string());
    println!("\npackets a second of the floods: {}", rates.join(", "));
    println!("knocks that did not open, by column: {}", lost.collect::<Vec<_>>().join(", "));
    println!(
        "load average: {}",
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
}

/// The value at this rank, nearest above, of sorted values.
fn rank(sorted: &[f64], share: f64) -> Option<f64> {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied()
}
