//! Sections `[hook.NAME]`: programs that run on events.

use super::commands::command;
use super::is_plain;
use super::raw::{Named, RawHook};
use crate::config::Hook;
use crate::core::diagnostic::{SourceText, printable};
use crate::core::event::EventKind;
use crate::core::types::Fault;

/// The most hooks.
const MOST: usize = 16;

pub(super) fn hooks(file: SourceText<'_>, raw: Named<RawHook>) -> Result<Vec<Hook>, Fault> {
    let mut sections: Vec<_> = raw.into_iter().collect();
    sections.sort_by_key(|(name, _)| name.span().start);
    let mut hooks = Vec::new();
    for (name, raw) in sections {
        let at = name.span().start;
        let word = name.get_ref();
        if hooks.len() == MOST {
            return Err(file.complain(at, format!("more than {MOST} hooks"), "remove some"));
        }
        if !is_plain(word, 31, "._-") {
            let what = format!("`{}` is no name for a hook", printable(word));
            return Err(file.complain(at, what, "up to 31 letters, digits, or any of ._-"));
        }
        let (Some(events), Some(run)) = (raw.events, raw.run) else {
            let what = format!("hook `{word}` has no `events`, or no `run`");
            let example = "events = [\"granted\"], and run = [\"/usr/local/bin/tell\"]";
            return Err(file.complain(at, what, format!("write for example {example}")));
        };
        let mut kinds = Vec::new();
        for event in events.get_ref() {
            let Some(kind) = EventKind::of(event.get_ref()) else {
                let known = EventKind::ALL.into_iter().map(EventKind::name);
                let start = event.span().start;
                return Err(file.complain_unknown(start, "events", event.get_ref(), known));
            };
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        if kinds.is_empty() {
            let start = events.span().start;
            return Err(file.complain(start, "`events` is empty", "name one, or remove the hook"));
        }
        let run = command(file, &run, "run")?;
        hooks.push(Hook { name: word.clone(), events: kinds, run });
    }
    Ok(hooks)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn a_hook_has_its_events_and_its_program_word_for_word() {
        let text = "[hook.b]\nevents = [\"granted\", \"alarm\", \"granted\"]\nrun = [\"/x\", \"a b\"]\n\
                    [hook.a]\nevents = [\"refused\"]\nrun = [\"/y\"]\n";
        let settings = parse("t.toml", text).unwrap();
        assert!(settings.runs_commands(), "it needs the rights for it");
        let names: Vec<&str> = settings.hooks.iter().map(|hook| hook.name.as_str()).collect();
        assert_eq!(names, ["b", "a"]);
        let hook = &settings.hooks[0];
        assert_eq!(hook.events, [EventKind::Granted, EventKind::Alarm]);
        assert_eq!(hook.run, ["/x", "a b"]);
    }

    #[test]
    fn a_hook_that_could_not_run_is_refused_at_its_place() {
        for (text, what) in [
            ("[hook.x]\nrun = [\"/x\"]", "t.toml:1:7: hook `x` has no `events`, or no `run`"),
            ("[hook.x]\nevents = [\"alarm\"]", "t.toml:1:7: hook `x` has no"),
            ("[hook.x]\nevents = []\nrun = [\"/x\"]", "t.toml:2:10: `events` is empty"),
            ("[hook.x]\nevents = [\"alarms\"]\nrun = [\"/x\"]", "t.toml:2:11: "),
            (
                "[hook.x]\nevents = [\"alarm\"]\nrun = [\"x\"]",
                "t.toml:3:8: `run` names no program by an absolute path",
            ),
            (
                "[hook.\"a b\"]\nevents = [\"alarm\"]\nrun = [\"/x\"]",
                "t.toml:1:7: `a b` is no name",
            ),
        ] {
            let fault = parse("t.toml", &format!("{text}\n")).unwrap_err();
            assert!(fault.what.starts_with(what) && !fault.remedy.is_empty(), "{fault}");
        }
        let many: String = (0..=MOST)
            .map(|n| format!("[hook.h{n}]\nevents = [\"alarm\"]\nrun = [\"/x\"]\n"))
            .collect();
        assert!(parse("t.toml", &many).unwrap_err().what.contains("more than 16 hooks"));
    }
}
