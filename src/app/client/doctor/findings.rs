//! What `toctoc doctor` found: as text and as JSON.

use std::fmt;

use serde_json::{Value, json};

/// Blanks before each line but the first.
const INDENT: &str = "      ";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grade {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
pub(super) struct Finding {
    pub(super) grade: Grade,
    pub(super) about: &'static str,
    pub(super) what: String,
    /// What to do; empty if all is well.
    pub(super) remedy: String,
    /// The exit code if this is what is wrong.
    pub(super) code: u8,
}

impl Grade {
    fn word(self) -> &'static str {
        match self {
            Grade::Ok => "ok",
            Grade::Warn => "warn",
            Grade::Fail => "FAIL",
        }
    }
}

impl fmt::Display for Finding {
    /// The grade, what was found, and in lines of their own what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = format!("\n{INDENT}");
        let what = self.what.replace('\n', &below);
        writeln!(f, "{:6}{}: {what}", self.grade.word(), self.about)?;
        if !self.remedy.is_empty() {
            writeln!(f, "{INDENT}-> {}", self.remedy.replace('\n', &below))?;
        }
        Ok(())
    }
}

pub(super) fn json(findings: &[Finding]) -> Value {
    let word = |grade: Grade| grade.word().to_lowercase();
    let worst = findings.iter().map(|finding| finding.grade).max();
    let mut list = Vec::new();
    for finding in findings {
        list.push(json!({
            "about": finding.about, "grade": word(finding.grade), "what": finding.what,
            "remedy": finding.remedy,
        }));
    }
    json!({ "result": worst.map(word), "findings": list })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::columns::fitted;

    #[test]
    fn a_finding_fits_a_terminal_with_each_line_behind_its_grade_and_the_remedy_below() {
        let finding = Finding {
            grade: Grade::Fail,
            about: "gateway",
            what: "word ".repeat(40) + "\nat the end",
            remedy: "do this".into(),
            code: 3,
        };
        let text = fitted(&finding.to_string());
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with(INDENT)), "{text}");
        assert!(text.starts_with("FAIL  gateway: word word "), "{text}");
        assert!(text.ends_with("\n      at the end\n      -> do this\n"), "{text}");
        assert_eq!(text.matches("word").count(), 40, "{text}");
    }
}
