//! Everything that is wrong in a configuration: each mistake is left out, and the rest is read
//! again.

use std::path::Path;

use super::{ConfigPart, read_once};
use crate::core::types::{Fault, FaultKind};

/// The most mistakes that are told besides the first one.
pub const MOST: usize = 20;

/// The first mistake, and with it all that is wrong besides and does not follow from another one.
pub(super) fn all(
    first: Fault, label: &str, text: &str,
    open: &mut dyn FnMut(&Path) -> Result<Vec<ConfigPart>, Fault>,
) -> Fault {
    let mut drafts = Drafts(vec![Draft::of(label, text)]);
    let mut found: Option<Fault> = None;
    // What follows from a mistake is left out too, and not told.
    for _ in 0..2 * MOST {
        let Err(fault) = drafts.read(open) else { break };
        let lacks_section = drafts.lack_section_of(&fault);
        let Some((draft, line)) = drafts.place(&fault) else { break };
        let is_new = !lacks_section && !draft.has_caused(&fault, line);
        let is_left_out = draft.leave_out(line);
        match &mut found {
            None => found = Some(fault),
            Some(first) if is_new => first.more += &fault.lines(),
            Some(_) => {}
        }
        if !is_left_out {
            break;
        }
    }
    found.unwrap_or(first)
}

/// The files as they are without the mistakes that were found, the main one first.
struct Drafts(Vec<Draft>);

struct Draft {
    label: String,
    /// What was left out is an empty line.
    lines: Vec<String>,
    gone: Vec<Gone>,
    /// The names of sections that were left out whole.
    sections: Vec<String>,
}

/// A key that was left out.
struct Gone {
    /// The index of its section's line.
    section: Option<usize>,
    key: String,
}

impl Drafts {
    fn read(
        &mut self, open: &mut dyn FnMut(&Path) -> Result<Vec<ConfigPart>, Fault>,
    ) -> Result<(), Fault> {
        let Some(main) = self.0.first() else { return Ok(()) };
        let (label, text) = (main.label.clone(), main.text());
        let mut open_drafts = |directory: &Path| {
            let mut parts = open(directory)?;
            for part in &mut parts {
                match self.0.iter().find(|draft| draft.label == part.label) {
                    Some(draft) => part.text = draft.text(),
                    None => self.0.push(Draft::of(&part.label, &part.text)),
                }
            }
            Ok(parts)
        };
        read_once(&label, &text, &mut open_drafts).map(drop)
    }

    /// True if the mistake is about a section that was left out.
    fn lack_section_of(&self, fault: &Fault) -> bool {
        let mut sections = self.0.iter().flat_map(|draft| &draft.sections);
        sections.any(|name| fault.what.contains(&format!("`{name}`")))
    }

    /// The file that a mistake is in, and the index of its line.
    fn place(&mut self, fault: &Fault) -> Option<(&mut Draft, usize)> {
        if fault.kind != FaultKind::Input {
            return None;
        }
        for draft in &mut self.0 {
            let rest = fault.what.strip_prefix(&draft.label).and_then(|at| at.strip_prefix(':'));
            let number = rest.and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
            if let Some(number) = number {
                return Some((draft, number.saturating_sub(1)));
            }
        }
        None
    }
}

impl Draft {
    fn of(label: &str, text: &str) -> Draft {
        let lines = text.lines().map(str::to_owned).collect();
        Draft { label: label.to_owned(), lines, gone: Vec::new(), sections: Vec::new() }
    }

    fn text(&self) -> String {
        self.lines.join("\n") + "\n"
    }

    /// True if the mistake at this line is, as far as one can tell, about something that was left
    /// out: a section lacks what its key had, or a key needs one that is gone.
    fn has_caused(&self, fault: &Fault, line: usize) -> bool {
        let section = self.section_of(line);
        let is_section = section == Some(line);
        let what = fault.what.rsplit(": ").next().unwrap_or_default();
        let mut words = what.split(|c: char| !c.is_alphanumeric() && c != '_');
        self.gone.iter().any(|gone| {
            gone.section == section && (is_section || words.any(|word| word == gone.key))
        })
    }

    /// The line that opens the section of this line.
    fn section_of(&self, line: usize) -> Option<usize> {
        (0..=line).rev().find(|at| self.lines.get(*at).is_some_and(|line| is_section(line)))
    }

    /// Leaves out what begins at this line or goes on there: a key with its value, or a section.
    /// False if it is neither, or if what is left is no TOML.
    fn leave_out(&mut self, line: usize) -> bool {
        let starts = |at: &usize| {
            self.lines.get(*at).is_some_and(|line| is_section(line) || key_of(line).is_some())
        };
        let Some(first) = (0..=line).rev().find(starts) else { return false };
        let whole = self.lines.get(first).is_some_and(|line| is_section(line));
        let ends = |line: &String| is_section(line) || !whole && key_of(line).is_some();
        let rest = self.lines.iter().skip(first + 1).take_while(|line| !ends(line)).count();
        let section = self.section_of(first);
        let mut is_changed = false;
        if whole && let Some(line) = self.lines.get(first) {
            let name = line.trim_matches(|c: char| "[] \"".contains(c)).rsplit('.').next();
            self.sections.extend(name.map(|name| name.replace('"', "")));
        }
        for line in self.lines.iter_mut().skip(first).take(rest + 1) {
            if let Some(key) = key_of(line) {
                self.gone.push(Gone { section, key: key.to_owned() });
            }
            is_changed |= !line.is_empty();
            line.clear();
        }
        is_changed && self.text().parse::<toml::Table>().is_ok()
    }
}

fn is_section(line: &str) -> bool {
    line.trim_start().starts_with('[') && line.contains(']') && !line.trim_end().ends_with(',')
}

/// The key of a line `key = value`.
fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    let is_key = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "_-.\"".contains(c));
    if is_key { Some(key) } else { None }
}

#[cfg(test)]
mod tests {
    use super::super::{parse, read};
    use super::*;

    /// The places of the mistakes that are told, and what they are.
    fn told(text: &str) -> Vec<String> {
        let fault = parse("t.toml", text).unwrap_err();
        let lines = fault.lines();
        lines.lines().filter_map(|line| line.strip_prefix("t.toml:")).map(str::to_owned).collect()
    }

    #[test]
    fn all_mistakes_are_told_in_one_go_each_with_its_line_and_word() {
        let text = "\
[knock]
max_age = \"soon\"
bursd = 64
per_second = 0
[service.ssh]
ports = [\"22/tcp\"]
form = \"sometimes\"
[service.web]
ports = [
    \"80/tcp\",
    \"none\",
]
[sevice.mail]
ports = [\"25/tcp\"]
";
        let mut told = told(text);
        told.sort();
        let places: Vec<&str> =
            told.iter().map(|line| line.split(": ").next().unwrap_or_default()).collect();
        assert_eq!(places, ["11:5", "13:2", "2:11", "3:1", "4:14", "7:8"], "{told:#?}");
        let lines = parse("t.toml", text).unwrap_err().lines();
        assert!(lines.contains("3 | bursd = 64\n  | ^^^^^\n  did you mean `burst`?\n"), "{lines}");
        assert!(lines.contains("\n13 | [sevice.mail]\n"), "{lines}");
    }

    #[test]
    fn what_follows_from_another_mistake_is_not_told() {
        for (text, count) in [
            // Without its ports, a service has nothing to open.
            ("[service.ssh]\nports = [\"x\"]\n", 1),
            ("[service.ssh]\nports = [\"x\"]\nform = \"y\"\n", 2),
            ("[service.a]\nprots = [\"1/tcp\"]\n[knock]\nport = 0\n", 2),
            // A door of a service that was left out.
            (
                "[service.a]\nprots = [\"1/tcp\"]\n[door.d]\nsequence = [\"2/tcp\", \"1/tcp\", \
                 \"3/tcp\"]\nservice = \"a\"\n",
                1,
            ),
            // Not TOML, up to a line that can be left out, or for good.
            ("[knock]\nport = = 7\nbursd = 1\n", 2),
            ("[knock\nport = 0\n", 1),
        ] {
            assert_eq!(told(text).len(), count, "{text}: {:#?}", told(text));
        }
    }

    #[test]
    fn mistakes_of_several_files_are_told_together() {
        let part = |label: &str, text: &str| ConfigPart { label: label.into(), text: text.into() };
        let mut open = |_: &Path| {
            Ok(vec![
                part("/d/1.toml", "[service.a]\nports = [\"1/tcp\"]\nfrom = \"time\"\n"),
                part("/d/2.toml", "[service.b]\nports = [\"x\"]\n"),
            ])
        };
        let text = "include = \"/d\"\n[knock]\nport = 0\n";
        let lines = read("t.toml", text, &mut open).unwrap_err().lines();
        for place in ["t.toml:3:8: ", "\n/d/1.toml:3:1: ", "\n/d/2.toml:2:10: "] {
            assert!(lines.contains(place), "{place} is not in {lines}");
        }
    }

    #[test]
    fn many_mistakes_are_told_up_to_a_limit() {
        let text: String = (0..200).map(|n| format!("[nonsense{n}]\n")).collect();
        let count = told(&text).len();
        assert!((MOST..=2 * MOST).contains(&count), "{count}");
    }
}
