//! An audit's report: one table, findings, and what was not covered; as text and as JSON.
//! See `html` for the file.

use jiff::Zoned;
use serde_json::{Value, json};

use crate::app::output::count;
use crate::core::columns::fitted;

/// Blanks before each line of a finding but the first.
const INDENT: &str = "      ";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// Known, and as it should be.
    Note,
    /// Worth a change, although nobody gets in who should not.
    Warn,
    /// Somebody gets in who should not.
    Hole,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub grade: Grade,
    /// The port, service or program.
    pub about: String,
    pub what: String,
    /// What to do; empty if all is well.
    pub remedy: String,
}

/// One field of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    pub text: String,
    /// True if it must not be so.
    pub is_hole: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportRow {
    pub port: String,
    pub listens: String,
    pub service: String,
    /// One for each of [`AuditReport::columns`].
    pub cells: Vec<Cell>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditReport {
    /// The machine that was audited.
    pub host: String,
    /// The time of the audit, local, with its zone.
    pub at: String,
    /// How it was measured, one sentence.
    pub measured: String,
    /// The configuration in short: names and values.
    pub facts: Vec<[String; 2]>,
    /// The headings of the measured columns.
    pub columns: Vec<&'static str>,
    pub rows: Vec<ReportRow>,
    pub findings: Vec<Finding>,
    /// What the audit did not look at, one sentence each.
    pub not_covered: Vec<String>,
}

impl Grade {
    pub fn word(self) -> &'static str {
        match self {
            Grade::Note => "note",
            Grade::Warn => "warn",
            Grade::Hole => "HOLE",
        }
    }
}

impl Finding {
    pub fn new(
        grade: Grade, about: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>,
    ) -> Finding {
        Finding { grade, about: about.into(), what: what.into(), remedy: remedy.into() }
    }
}

impl ReportRow {
    /// What is known beforehand, by its heading.
    pub(super) fn known(&self, heading: &str) -> &str {
        match heading {
            "port" => &self.port,
            "listens" => &self.listens,
            _ => &self.service,
        }
    }
}

impl Cell {
    pub fn new(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), is_hole: false }
    }

    pub fn hole(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), is_hole: true }
    }

    fn marked(&self) -> String {
        if self.is_hole { format!("! {}", self.text) } else { self.text.clone() }
    }
}

impl AuditReport {
    /// An empty one, of now.
    pub fn begin(host: String, measured: String, columns: Vec<&'static str>) -> AuditReport {
        AuditReport {
            host,
            at: Zoned::now().strftime("%Y-%m-%d %H:%M:%S %:z").to_string(),
            measured,
            facts: Vec::new(),
            columns,
            rows: Vec::new(),
            findings: Vec::new(),
            not_covered: Vec::new(),
        }
    }

    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.grade != Grade::Hole)
    }

    /// The verdict in one line.
    pub fn verdict(&self) -> String {
        let number = |grade| self.findings.iter().filter(|one| one.grade == grade).count();
        let warnings = match number(Grade::Warn) {
            0 => String::new(),
            some => format!(", {}", count(some, "warning")),
        };
        match number(Grade::Hole) {
            0 => format!("sound: nobody gets in without a grant{warnings}"),
            some => format!("NOT SOUND: {}{warnings}", count(some, "hole")),
        }
    }

    pub fn text(&self) -> String {
        let mut text = format!("audit of {}, {}: {}\n", self.host, self.at, self.verdict());
        text += &format!("{}\n\n{}\n", self.measured, self.table());
        let mut findings: Vec<&Finding> = self.findings.iter().collect();
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.grade));
        for finding in findings {
            text += &finding.text();
        }
        if !self.not_covered.is_empty() {
            text += "\nnot covered:\n";
        }
        for one in &self.not_covered {
            text += &format!("- {one}\n");
        }
        text
    }

    /// The headings before the measured ones. From outside nobody knows what listens.
    pub(super) fn headings(&self) -> Vec<&'static str> {
        match self.rows.iter().all(|row| row.listens.is_empty()) {
            true => vec!["port", "service"],
            false => vec!["port", "listens", "service"],
        }
    }

    /// The table in columns. A `!` marks what must not be so.
    fn table(&self) -> String {
        let headings = self.headings();
        let all = headings.iter().chain(&self.columns);
        let mut lines = vec![all.map(|column| column.to_uppercase()).collect::<Vec<_>>()];
        for row in &self.rows {
            let mut line: Vec<String> =
                headings.iter().map(|heading| row.known(heading).to_owned()).collect();
            line.extend(row.cells.iter().map(Cell::marked));
            lines.push(line);
        }
        let width = |index: usize| {
            lines.iter().filter_map(|line| line.get(index)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..lines[0].len()).filter_map(width).collect();
        let mut table = String::new();
        for line in &lines {
            let mut text = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                text += &format!("{cell:width$}  ");
            }
            table += text.trim_end();
            table.push('\n');
        }
        table
    }

    pub fn json(&self) -> Value {
        let mut rows = Vec::new();
        for row in &self.rows {
            let mut cells = Vec::new();
            for (column, cell) in self.columns.iter().zip(&row.cells) {
                cells.push(json!({ "column": column, "seen": cell.text, "hole": cell.is_hole }));
            }
            rows.push(json!({
                "port": row.port, "listens": row.listens, "service": row.service, "cells": cells,
            }));
        }
        let mut findings = Vec::new();
        for finding in &self.findings {
            findings.push(json!({
                "grade": finding.grade.word().to_lowercase(), "about": finding.about,
                "what": finding.what, "remedy": finding.remedy,
            }));
        }
        let mut facts = Vec::new();
        for [name, value] in &self.facts {
            facts.push(json!({ "name": name, "value": value }));
        }
        json!({
            "result": if self.is_sound() { "sound" } else { "holes" },
            "host": self.host, "at": self.at, "version": env!("TOCTOC_VERSION"),
            "measured": self.measured, "facts": facts, "rows": rows, "findings": findings,
            "not_covered": self.not_covered,
        })
    }
}

impl Finding {
    fn text(&self) -> String {
        let mut text = format!("{:6}{}: {}\n", self.grade.word(), self.about, self.what);
        if !self.remedy.is_empty() {
            text += &format!("{INDENT}-> {}\n", self.remedy);
        }
        fitted(&text)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::output;
    use super::*;

    pub(in crate::app::audit) fn example() -> AuditReport {
        let mut report = AuditReport::begin(
            "gate <b>".to_owned(),
            "measured in a copy".to_owned(),
            vec!["stranger", "while open", "with a grant"],
        );
        report.facts.push(["services".to_owned(), "ssh & web".to_owned()]);
        report.rows.push(ReportRow {
            port: "22/tcp".to_owned(),
            listens: "sshd \"x\"\u{1b}[1m".to_owned(),
            service: "ssh".to_owned(),
            cells: vec![Cell::new("silent"), Cell::hole("OPEN"), Cell::new("ssh")],
        });
        report.findings.push(Finding::new(Grade::Warn, "sshd", "it takes passwords", "stop that"));
        report.findings.push(Finding::new(Grade::Hole, "22/tcp", "a stranger gets in", "shut it"));
        report.not_covered.push("the moon".to_owned());
        report
    }

    #[test]
    fn the_text_marks_what_must_not_be_so_and_begins_with_the_worst() {
        let text = example().text();
        assert!(text.contains("NOT SOUND: 1 hole, 1 warning\n"), "{text}");
        assert!(text.contains("  ! OPEN  "), "{text}");
        let at = |words| text.find(words).unwrap_or_else(|| panic!("{words}: {text}"));
        assert!(at("HOLE  22/tcp") < at("      -> shut it") && at("-> shut it") < at("warn  sshd"));
        assert!(text.ends_with("\nnot covered:\n- the moon\n"), "{text}");
    }

    #[test]
    fn a_hole_decides_about_result_and_exit_code_and_a_warning_does_not() {
        let mut report = example();
        assert_eq!(report.json()["result"], "holes");
        assert_eq!(output(&report, None).unwrap().code, 1);
        report.findings.pop();
        assert_eq!(report.json()["result"], "sound");
        assert_eq!(output(&report, None).unwrap().code, 0);
        assert!(report.verdict().ends_with(", 1 warning"), "{}", report.verdict());
    }

    #[test]
    fn nothing_that_a_program_calls_itself_reaches_the_terminal_as_it_is() {
        assert!(!output(&example(), None).unwrap().out.contains('\u{1b}'));
    }
}
