//! The report as one HTML file: no script, nothing loaded from elsewhere, fit for paper.

use super::report::{AuditReport, Cell, Finding, Grade};

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:64em;padding:0 1em;color:#1b1f24}\
h1{font-size:1.5em;margin-bottom:.1em}h2{font-size:1.15em;margin-top:1.8em}\
.about{color:#57606a;margin-top:0}\
.verdict{border-left:.4em solid;padding:.6em 1em;font-weight:600}\
.sound{border-color:#1a7f37;background:#eaf6ec}.holes{border-color:#cf222e;background:#fdeceb}\
table{border-collapse:collapse;width:100%}\
th,td{text-align:left;vertical-align:top;padding:.35em .6em;border-bottom:1px solid #d0d7de}\
thead th{border-bottom:2px solid #57606a}td.hole{background:#fdeceb;color:#a40e26;font-weight:600}\
.finding{border-left:.3em solid #8c959f;padding:.2em .9em;margin:.8em 0;break-inside:avoid}\
.finding.hole{border-color:#cf222e}.finding.warn{border-color:#bf8700}\
.finding p{margin:.2em 0}.remedy{color:#57606a}tr{break-inside:avoid}\
@media print{body{margin:0;max-width:none;font-size:11px}}";

/// The whole file.
pub(super) fn page(report: &AuditReport) -> String {
    let class = if report.is_sound() { "sound" } else { "holes" };
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <title>Audit of {host}</title>\n<style>{STYLE}</style></head>\n<body>\n\
         <h1>Audit of {host}</h1>\n<p class=\"about\">{at}, toctoc {version}</p>\n\
         <p class=\"verdict {class}\">{verdict}</p>\n<p>{measured}</p>\n",
        host = escaped(&report.host),
        at = escaped(&report.at),
        version = escaped(env!("TOCTOC_VERSION")),
        verdict = escaped(&report.verdict()),
        measured = escaped(&report.measured),
    );
    page += &table(report);
    page += "<h2>Findings</h2>\n";
    if report.findings.is_empty() {
        page += "<p>None.</p>\n";
    }
    let mut findings: Vec<&Finding> = report.findings.iter().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.grade));
    findings.into_iter().for_each(|one| page += &finding(one));
    page += "<h2>Configuration</h2>\n<table>\n";
    for [name, value] in &report.facts {
        page += &format!("<tr><th>{}</th><td>{}</td></tr>\n", escaped(name), escaped(value));
    }
    page += "</table>\n<h2>Not covered</h2>\n<ul>\n";
    for one in &report.not_covered {
        page += &format!("<li>{}</li>\n", escaped(one));
    }
    page + "</ul>\n</body></html>\n"
}

fn table(report: &AuditReport) -> String {
    let headings = report.headings();
    let mut table = "<h2>Ports</h2>\n<table>\n<thead><tr>".to_owned();
    for column in headings.iter().chain(&report.columns) {
        table += &format!("<th>{}</th>", escaped(&capital(column)));
    }
    table += "</tr></thead>\n<tbody>\n";
    for row in &report.rows {
        table += "<tr>";
        for heading in &headings {
            table += &format!("<td>{}</td>", escaped(row.known(heading)));
        }
        for Cell { text, is_hole } in &row.cells {
            let class = if *is_hole { " class=\"hole\"" } else { "" };
            table += &format!("<td{class}>{}</td>", escaped(text));
        }
        table += "</tr>\n";
    }
    table + "</tbody></table>\n"
}

fn finding(finding: &Finding) -> String {
    let class = finding.grade.word().to_lowercase();
    let mut text = format!(
        "<div class=\"finding {class}\"><p><strong>{}: {}</strong></p><p>{}</p>",
        match finding.grade {
            Grade::Hole => "Hole",
            Grade::Warn => "Warning",
            Grade::Note => "Note",
        },
        escaped(&finding.about),
        escaped(&finding.what)
    );
    if !finding.remedy.is_empty() {
        text += &format!("<p class=\"remedy\">&rarr; {}</p>", escaped(&finding.remedy));
    }
    text + "</div>\n"
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(char::to_uppercase).into_iter().flatten().chain(letters).collect()
}

/// The text with the characters that mean something in HTML written out, and without control
/// characters.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            other if other.is_control() => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::example;
    use super::*;

    #[test]
    fn the_page_holds_everything_escaped_and_asks_for_nothing_from_elsewhere() {
        let page = page(&example());
        for part in [
            "Audit of gate &lt;b&gt;",
            "sshd &quot;x&quot;\u{fffd}[1m",
            "<td class=\"hole\">OPEN</td>",
            "ssh &amp; web",
            "<th>While open</th>",
            "<li>the moon</li>",
            "class=\"verdict holes\"",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        for foreign in ["<b>", "<script", "http://", "https://", "src=", "url(", "@import"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.find("Hole: 22/tcp") < page.find("Warning: sshd"));
    }
}
