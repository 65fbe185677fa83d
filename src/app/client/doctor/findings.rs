//! What `toctoc doctor` found: as text and as JSON.

use std::fmt;

use serde_json::{Value, json};

/// The longest line.
const COLUMNS: usize = 80;
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
        write!(f, "{:6}{}", self.grade.word(), wrapped(&format!("{}: {}", self.about, self.what)))?;
        if !self.remedy.is_empty() {
            write!(f, "{INDENT}-> {}", wrapped(&self.remedy))?;
        }
        Ok(())
    }
}

/// `text` in lines that fit behind the indent. Each ends in a line break.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for line in text.lines() {
        for word in line.split_whitespace() {
            let Some(last) = lines.last_mut() else { continue };
            if last.is_empty() {
                last.push_str(word);
            } else if INDENT.len() + last.chars().count() + word.chars().count() < COLUMNS - 3 {
                last.push(' ');
                last.push_str(word);
            } else {
                lines.push(word.to_owned());
            }
        }
        lines.push(String::new());
    }
    lines.pop();
    lines.join(&format!("\n{INDENT}")) + "\n"
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

    #[test]
    fn a_finding_is_told_in_lines_of_80_columns_with_the_remedy_behind_it() {
        let finding = Finding {
            grade: Grade::Fail,
            about: "gateway",
            what: "word ".repeat(40) + "\nat the end",
            remedy: "do this".into(),
            code: 3,
        };
        let text = finding.to_string();
        assert!(text.lines().all(|line| line.len() <= COLUMNS), "{text}");
        assert!(text.starts_with("FAIL  gateway: word word "), "{text}");
        assert!(text.ends_with("\n      at the end\n      -> do this\n"), "{text}");
        assert_eq!(text.matches("word").count(), 40, "{text}");
    }
}
