//! docs/json.md and docs/schemas: every command has its schema, and every schema its command. What
//! the programs print is held against them wherever a test runs a command with `--json`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory};
use serde_json::{Value, json};
use toctoc::app::args::{toctoc as client, toctocd as gateway};

use crate::schema;

/// Commands without `--json`, each with the reason.
const WITHOUT: [(&str, &str); 2] = [
    ("toctoc connect", "its standard output is the connection"),
    ("toctoc knock", "it answers with an exit code alone, as knock does"),
];

/// The commands below `command` that do something, and those of them that take `--json`.
#[derive(Default)]
struct Leaves {
    all: BTreeSet<String>,
    with_json: BTreeSet<String>,
}

impl Leaves {
    fn of_both_programs() -> Leaves {
        let mut leaves = Leaves::default();
        leaves.add(&client::ToctocCommand::command(), "", false);
        leaves.add(&gateway::ToctocdArgs::command(), "", false);
        leaves
    }

    fn add(&mut self, command: &Command, words: &str, takes_json: bool) {
        let words = format!("{words} {}", command.get_name()).trim_start().to_owned();
        let has_option =
            command.get_arguments().any(|argument| argument.get_long() == Some("json"));
        let takes_json = takes_json || has_option;
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            self.add(sub, &words, takes_json);
        }
        if !command.has_subcommands() {
            if takes_json {
                self.with_json.insert(words.clone());
            }
            self.all.insert(words);
        }
    }
}

#[test]
fn every_command_takes_json_or_has_a_reason_not_to() {
    let leaves = Leaves::of_both_programs();
    assert!(leaves.all.len() > 40, "found only {:?}", leaves.all);
    let without: BTreeSet<String> = leaves.all.difference(&leaves.with_json).cloned().collect();
    assert_eq!(without, WITHOUT.map(|(command, _)| command.to_owned()).into());
    let says = schema::text();
    for (command, _) in WITHOUT {
        assert!(says.contains(&format!("`{command}`")), "docs/json.md does not name {command}");
    }
}

#[test]
fn every_command_with_json_has_a_schema_and_every_schema_a_command() {
    let commands = Leaves::of_both_programs().with_json;
    assert!(commands.len() > 20, "found only {commands:?}");
    let listed: BTreeSet<String> = schema::commands().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        listed, commands,
        "docs/json.md and the command lines: a new command needs its row there, and its schema in \
         docs/schemas, which is done.json if it has no object of its own"
    );
    let mut files: BTreeSet<String> =
        schema::commands().into_iter().map(|(_, file)| file).collect();
    files.insert("fault.json".to_owned());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas");
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        there.insert(entry.unwrap().file_name().into_string().unwrap());
    }
    assert_eq!(there, files);
}

/// Every key of an object is described, and required or named as optional by its absence there.
fn check_described(schema: &Value, place: &str) {
    if let Some(properties) = schema["properties"].as_object() {
        assert_eq!(schema["additionalProperties"], false, "{place}: other keys");
        for (name, property) in properties {
            let place = format!("{place}.{name}");
            let says =
                ["description", "enum", "const"].iter().any(|word| !property[word].is_null());
            assert!(says, "{place} has no description");
            check_described(property, &place);
        }
    }
    for part in schema["anyOf"].as_array().into_iter().flatten() {
        check_described(part, place);
    }
    if !schema["items"].is_null() {
        check_described(&schema["items"], &format!("{place}[]"));
    }
}

#[test]
fn every_key_of_every_answer_is_described() {
    let files = schema::commands().into_iter().map(|(_, file)| file);
    for file in files.chain(["fault.json".to_owned()]) {
        check_described(&schema::schema(&file), &file);
    }
}

#[test]
fn an_answer_of_another_shape_is_noticed() {
    let list = |value: Value| schema::faults("toctocd", &["close", "x"], &value.to_string());
    let sound = json!({
        "ended": 1, "over": 0, "cut": ["ssh"], "go_on": [],
        "is_shut": true, "is_cut": true, "is_stored": true
    });
    assert_eq!(list(sound.clone()), [""; 0]);
    let changed = |key: &str, value: Value| {
        let mut changed = sound.clone();
        changed[key] = value;
        list(changed)
    };
    assert_eq!(changed("ended", json!("1")).len(), 1);
    assert_eq!(changed("ended", json!(-1)).len(), 1);
    assert_eq!(changed("cut", json!([7])).len(), 1);
    assert_eq!(changed("new", json!(null)), ["answer.new is in no schema"]);
    let mut without = sound.clone();
    without.as_object_mut().unwrap().remove("over");
    assert_eq!(list(without), ["answer has no over"]);
    let fault = json!({ "result": "fault", "what": "no" });
    assert_eq!(list(fault), ["answer has no remedy"]);
    assert_eq!(
        schema::faults("toctocd", &["strat"], "{}"),
        ["docs/json.md has no `toctocd strat`"]
    );
    assert_eq!(schema::faults("toctocd", &["close"], "no").len(), 1);
    let run =
        schema::faults("toctocd", &["status"], &json!({ "trial": { "state": "on" } }).to_string());
    assert!(
        run.iter().any(|fault| fault.contains("answer.trial has none of its shapes")),
        "{run:?}"
    );
}
