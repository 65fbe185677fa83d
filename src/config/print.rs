//! Settings as TOML that `native` reads back to the same settings: bare, or with a comment on every
//! key. Both fill the template toctocd.toml, which has the order of the keys and the comments.

use serde::Serialize;
use toml::{Table, Value};

use super::native::{CUTS, FORMS, LOG_FORMS, MODES, SOURCES, flag_words, place_word, target_word};
use super::{Door, Hook, Mode, Service, Settings, SourceRule};
use crate::core::prefix::Spans;

/// The commented configuration: defaults, and one example of each kind of section. A blank line
/// ends a section; `# key = value` is a key without a default.
pub const TEMPLATE: &str = include_str!("toctocd.toml");
const SERVICE: &str = "service.ssh";
const COMMAND_SERVICE: &str = "service.vpn";
const DOOR: &str = "door.side";
const HOOK: &str = "hook.mail";

/// How much is written besides the keys that have a value.
#[derive(Clone, Copy, PartialEq)]
enum Extent {
    Nothing,
    /// Keys without a value, and an example of each kind of section that there is none of, as
    /// comments.
    EveryKey,
    /// The same, and what each key means.
    Explained,
}

/// The effective configuration: every key, nothing else. What has no value is a comment.
pub fn print(settings: &Settings) -> String {
    write(settings, Extent::EveryKey)
}

/// The same with a comment on every key, as `toctocd init` writes it.
pub fn print_commented(settings: &Settings) -> String {
    write(settings, Extent::Explained)
}

/// Services and doors alone, for a file with this `[firewall]`.
pub fn print_doors(settings: &Settings) -> String {
    let mut sections = Vec::new();
    for service in &settings.services {
        sections.push(service_section(service, settings.firewall.mode, Extent::Nothing));
    }
    for door in &settings.doors {
        sections.push(door_section(door, Extent::Nothing));
    }
    sections.join("\n")
}

fn write(settings: &Settings, extent: Extent) -> String {
    let mut sections = Vec::new();
    for template in TEMPLATE.split("\n\n") {
        let name = name_of(template);
        let before = sections.len();
        match name {
            SERVICE => {
                for service in &settings.services {
                    sections.push(service_section(service, settings.firewall.mode, extent));
                }
            }
            DOOR => {
                for door in settings.doors.iter().filter(|door| door.native) {
                    sections.push(door_section(door, extent));
                }
            }
            COMMAND_SERVICE => {}
            HOOK => {
                for hook in &settings.hooks {
                    sections.push(hook_section(hook, extent));
                }
            }
            // The sections of its files follow below.
            "" if settings.include.is_some() => continue,
            _ => sections.push(fill(template, name, &values(name, settings), extent)),
        }
        let shown = match name {
            SERVICE => settings.services.iter().any(|service| service.commands.is_none()),
            COMMAND_SERVICE => settings.services.iter().any(|service| service.commands.is_some()),
            _ => sections.len() > before,
        };
        if !shown {
            sections.push(example(template, extent));
        }
    }
    sections.retain(|section| !section.is_empty());
    sections.join("\n")
}

/// The keys and values of a section that is there once.
fn values(name: &str, settings: &Settings) -> Table {
    match name {
        "gateway" => table(&settings.gateway),
        "knock" => {
            let mut knock = table(&settings.knock);
            knock.insert("also_grant".to_owned(), texts(&settings.knock.also_grant));
            knock
        }
        "firewall" => {
            let mut firewall = table(&settings.firewall);
            firewall.insert("mode".to_owned(), word(&MODES, &settings.firewall.mode));
            firewall
        }
        "log" => Table::from_iter([
            ("to".to_owned(), target_word(&settings.log.to).into()),
            ("form".to_owned(), word(&LOG_FORMS, &settings.log.form)),
        ]),
        "metrics" => {
            let metrics = &settings.metrics;
            let mut table =
                Table::from_iter([("seconds".to_owned(), i64::from(metrics.seconds).into())]);
            if let Some(place) = &metrics.listen {
                table.insert("listen".to_owned(), place_word(place).into());
            }
            if let Some(path) = &metrics.textfile {
                table.insert("textfile".to_owned(), path.to_string_lossy().into_owned().into());
            }
            table
        }
        "classic" => match &settings.classic {
            Some(file) => Table::from_iter([(
                "knockd_conf".to_owned(),
                file.to_string_lossy().into_owned().into(),
            )]),
            None => Table::new(),
        },
        _ => Table::new(),
    }
}

fn table(section: &impl Serialize) -> Table {
    Table::try_from(section).expect("settings are UTF-8 text and numbers below 2^63")
}

fn hook_section(hook: &Hook, extent: Extent) -> String {
    let kinds: Vec<&str> = hook.events.iter().map(|kind| kind.name()).collect();
    let keys = vec![("events", kinds.into()), ("run", hook.run.clone().into())];
    section(HOOK, &format!("hook.{}", Value::from(hook.name.as_str())), keys, extent)
}

fn service_section(service: &Service, default: Mode, extent: Extent) -> String {
    let mut keys: Vec<(&str, Value)> = vec![
        ("seconds", i64::from(service.seconds).into()),
        ("max_seconds", i64::from(service.max_seconds).into()),
        ("max_grants", i64::from(service.max_grants).into()),
        ("challenge", service.challenge.into()),
        (
            "source",
            match &service.source {
                SourceRule::Within(prefixes) => texts(prefixes),
                rule => word(&SOURCES, rule),
            },
        ),
    ];
    let mut template = COMMAND_SERVICE;
    if let Some(commands) = &service.commands {
        keys.push(("start", commands.start.clone().into()));
        keys.push(("stop", commands.stop.clone().into()));
    } else {
        template = SERVICE;
        keys.push(("ports", service.ports.texts().into()));
        keys.push(("form", word(&FORMS, &service.form)));
        keys.push(("grant_prefix", prefix_lengths(service.spans).into()));
        keys.push(("cut", word(&CUTS, &service.cut)));
        let masquerade = service.forward.as_ref().is_some_and(|forward| forward.masquerade);
        keys.push(("masquerade", masquerade.into()));
        if service.mode != default || extent == Extent::EveryKey {
            keys.push(("mode", word(&MODES, &service.mode)));
        }
        if let Some(forward) = &service.forward {
            keys.push(("forward", texts(&forward.to)));
        }
    }
    // Names are of [a-z0-9._-]. A dot would nest, so such a name is quoted.
    let name = service.name.as_str();
    let name = if name.contains('.') { format!("\"{name}\"") } else { name.to_owned() };
    section(template, &format!("service.{name}"), keys, extent)
}

fn door_section(door: &Door, extent: Extent) -> String {
    let mut keys: Vec<(&str, Value)> = vec![
        ("seq_timeout", door.seq_timeout.into()),
        ("tcpflags", flag_words(door.flags).into()),
        ("tolerate_duplicates", door.tolerate_duplicates.into()),
        ("pause_after", i64::from(door.pause_after).into()),
    ];
    match &door.one_time_sequences {
        Some(file) => keys.push(("one_time_sequences", file.to_string_lossy().as_ref().into())),
        None => {
            let steps: Vec<String> = door.sequence.iter().map(|step| step.notation()).collect();
            keys.push(("sequence", steps.into()));
        }
    }
    if let Some(service) = &door.service {
        keys.push(("service", service.as_str().into()));
    }
    for (key, text) in [
        ("target", &door.target),
        ("start_command", &door.start_command),
        ("start_command_6", &door.start_command_6),
        ("stop_command", &door.stop_command),
        ("stop_command_6", &door.stop_command_6),
    ] {
        if let Some(text) = text {
            keys.push((key, text.as_str().into()));
        }
    }
    if door.start_command.is_some() || door.start_command_6.is_some() {
        keys.push(("cmd_timeout", door.cmd_timeout.into()));
    }
    section(DOOR, &format!("door.{}", Value::from(door.name.as_str())), keys, extent)
}

fn section(template: &str, header: &str, keys: Vec<(&str, Value)>, extent: Extent) -> String {
    let values = keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let template = TEMPLATE.split("\n\n").find(|section| name_of(section) == template);
    fill(template.unwrap_or_default(), header, &values, extent)
}

/// A section of the template with these values; the others are comments.
fn fill(template: &str, header: &str, values: &Table, extent: Extent) -> String {
    let mut text = String::new();
    for line in template.lines() {
        if line.starts_with('[') {
            text += &format!("[{header}]\n");
        } else if let Some((key, default)) = key_of(line) {
            match values.get(key) {
                // One bit, as people write masks.
                Some(Value::Integer(mask)) if default.starts_with("0x") => {
                    text += &format!("{key} = {mask:#x}\n");
                }
                Some(value) => text += &format!("{key} = {value}\n"),
                None if extent == Extent::Nothing => {}
                None => text += &format!("# {key} = {default}\n"),
            }
        } else if extent == Extent::Explained {
            text += &format!("{line}\n");
        }
    }
    text
}

/// A section of the template, all of it commented out.
fn example(template: &str, extent: Extent) -> String {
    let mut text = String::new();
    for line in template.lines() {
        if line.starts_with('[') || key_of(line).is_some() || extent == Extent::Explained {
            text += if line.starts_with('#') { "" } else { "# " };
            text += &format!("{line}\n");
        }
    }
    text
}

/// The name in the header of a section of the template; empty above all sections.
fn name_of(template: &str) -> &str {
    for line in template.lines() {
        if let Some(name) = line.strip_prefix('[') {
            return name.trim_end_matches(']');
        }
    }
    ""
}

/// The key of a line, and its value in the template.
fn key_of(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.strip_prefix("# ").unwrap_or(line).split_once(" = ")?;
    let plain = key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if plain { Some((key, value)) } else { None }
}

/// The word for a value, from the table that the parser uses.
fn word<T: PartialEq>(words: &[(&str, T)], value: &T) -> Value {
    match words.iter().find(|(_, meaning)| meaning == value) {
        Some((word, _)) => (*word).into(),
        None => "".into(),
    }
}

/// The prefix lengths of both families, IPv4 first.
fn prefix_lengths(spans: Spans) -> Vec<i64> {
    vec![32 - i64::from(spans.v4.ignored()), 128 - i64::from(spans.v6.ignored())]
}

fn texts<T: ToString>(list: &[T]) -> Value {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{defaults, native};

    /// The keys that the reader takes, by its own structs: (section of the template, key).
    fn keys() -> Vec<(&'static str, &'static str)> {
        let sections = [
            ("RawSettings", ""),
            ("RawGateway", "gateway"),
            ("RawKnock", "knock"),
            ("RawFirewall", "firewall"),
            ("RawService", "service."),
            ("RawDoor", DOOR),
            ("RawClassic", "classic"),
            ("RawLog", "log"),
            ("RawMetrics", "metrics"),
            ("RawHook", "hook."),
        ];
        let mut keys = Vec::new();
        for part in include_str!("native/raw.rs").split("pub(super) struct ").skip(1) {
            let (name, fields) = part.split_once(" {").unwrap();
            let Some((_, section)) = sections.iter().find(|(known, _)| *known == name) else {
                assert_eq!(name, "RawPart", "a struct without its section here");
                continue;
            };
            for line in fields.split("\n}").next().unwrap().lines() {
                // The fields of the outermost struct are sections, except `include`.
                if let Some((key, _)) =
                    line.trim().trim_start_matches("pub(super) ").split_once(": ")
                    && line.contains("pub(super)")
                    && (!section.is_empty() || key == "include")
                {
                    keys.push((*section, key));
                }
            }
        }
        assert!(keys.len() > 50, "{keys:?}");
        keys
    }

    /// True if a section whose name begins so has a line for this key, as a comment or not.
    fn has(text: &str, section: &str, key: &str) -> bool {
        text.split("\n\n").any(|part| {
            let plain = part.replace("\n# [", "\n[");
            let plain = plain.strip_prefix("# [").map_or(plain.clone(), |rest| format!("[{rest}"));
            name_of(&plain).starts_with(section)
                && plain.lines().any(|line| key_of(line).is_some_and(|(found, _)| found == key))
        })
    }

    #[test]
    fn every_key_that_is_read_is_in_the_template_and_in_both_printed_forms() {
        let all = "[service.ssh]\nports = [\"22/tcp\"]\n\
                   [door.d]\nsequence = [\"7411/tcp\", \"2833/udp\"]\nservice = \"ssh\"\n";
        for settings in [defaults::settings(), native::parse("t", all).unwrap()] {
            for (text, form) in [
                (TEMPLATE.to_owned(), "the template"),
                (print(&settings), "check --print"),
                (print_commented(&settings), "init"),
            ] {
                for (section, key) in keys() {
                    let section = section.trim_end_matches(".side");
                    assert!(has(&text, section, key), "{form}: no {key} in [{section}]:\n{text}");
                }
            }
        }
    }

    #[test]
    fn what_convert_prints_has_no_key_without_a_value() {
        let all = "[door.d]\nsequence = [\"7411/tcp\", \"2833/udp\"]\nstart_command = \"x\"\n";
        let text = print_doors(&native::parse("t", all).unwrap());
        assert!(text.contains("start_command = \"x\"") && !text.contains('#'), "{text}");
    }
}
