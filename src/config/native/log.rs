//! Section `[log]`: where the log goes, and in which form.

use std::path::Path;

use super::raw::RawLog;
use super::{choice, start_of};
use crate::config::{LogForm, LogSettings, LogTarget, defaults};
use crate::core::diagnostic::SourceText;
use crate::core::types::Fault;

/// The words for a place that is no file.
const TARGETS: [(&str, LogTarget); 3] =
    [("stderr", LogTarget::Stderr), ("journal", LogTarget::Journal), ("syslog", LogTarget::Syslog)];
pub const LOG_FORMS: [(&str, LogForm); 2] = [("text", LogForm::Text), ("json", LogForm::Json)];

pub(super) fn log(file: SourceText<'_>, raw: RawLog) -> Result<LogSettings, Fault> {
    let default = defaults::log();
    let form_at = start_of(&raw.form);
    let to = match raw.to {
        Some(to) if Path::new(to.get_ref()).has_root() => {
            LogTarget::File(super::absolute(file, to, "to")?)
        }
        to => choice(file, to, "to", &TARGETS, default.to)?,
    };
    let form = choice(file, raw.form, "form", &LOG_FORMS, default.form)?;
    if let (Some(at), LogTarget::Journal | LogTarget::Syslog) = (form_at, &to)
        && form == LogForm::Json
    {
        let what = format!("`form` beside to = \"{}\": it has fields of its own", target_word(&to));
        return Err(file.complain(at, what, "remove it"));
    }
    Ok(LogSettings { to, form })
}

/// The value of `to`.
pub fn target_word(target: &LogTarget) -> String {
    match target {
        LogTarget::Stderr => "stderr".to_owned(),
        LogTarget::Journal => "journal".to_owned(),
        LogTarget::Syslog => "syslog".to_owned(),
        LogTarget::File(path) => path.to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn the_log_goes_where_a_word_or_a_path_says() {
        let log = |text: &str| parse("t.toml", &format!("[log]\n{text}")).unwrap().log;
        assert_eq!(log(""), defaults::log());
        for (word, to) in TARGETS {
            assert_eq!(log(&format!("to = \"{word}\"\n")).to, to);
        }
        let file = log("to = \"/var/log/toctocd.log\"\nform = \"json\"\n");
        assert_eq!(file.to, LogTarget::File("/var/log/toctocd.log".into()));
        assert_eq!(file.form, LogForm::Json);
    }

    #[test]
    fn a_place_that_nobody_knows_is_refused_at_its_word() {
        for (text, what) in [
            ("to = \"log\"", "t.toml:2:6: "),
            ("to = \"sysload\"", "t.toml:2:6: "),
            ("form = \"xml\"", "t.toml:2:8: "),
            ("to = \"syslog\"\nform = \"json\"", "t.toml:3:8: `form` beside to = \"syslog\""),
        ] {
            let fault = parse("t.toml", &format!("[log]\n{text}\n")).unwrap_err();
            assert!(fault.what.starts_with(what) && !fault.remedy.is_empty(), "{fault}");
        }
    }
}
