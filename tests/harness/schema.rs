//! Holds answers in JSON against the schemas of docs/schemas. docs/json.md says which command has
//! which.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

/// The words that a schema of ours may use; `check_schema` knows the meaning of each.
const WORDS: [&str; 12] = [
    "$schema",
    "additionalProperties",
    "anyOf",
    "const",
    "description",
    "enum",
    "items",
    "minimum",
    "properties",
    "required",
    "title",
    "type",
];

fn docs(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// docs/json.md.
pub(crate) fn text() -> String {
    docs("json.md")
}

/// The commands of docs/json.md, each with its schema: `toctocd client list`, `done.json`.
pub(crate) fn commands() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for row in text().lines().filter(|line| line.starts_with("| `")) {
        let (commands, rest) = row.split_once(" | ").expect("two columns");
        let (_, link) = rest.split_once("(schemas/").expect("a link to a schema");
        let (file, _) = link.split_once(')').expect("a link");
        for command in commands.split('`').skip(1).step_by(2) {
            found.push((command.to_owned(), file.to_owned()));
        }
    }
    found
}

/// The schema of this file of docs/schemas.
pub(crate) fn schema(file: &str) -> Value {
    let schema = serde_json::from_str(&docs(&format!("schemas/{file}")));
    schema.unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// What is wrong with an answer of `program WORDS --json`; nothing if it has its schema's shape.
pub(crate) fn faults(program: &str, words: &[&str], answer: &str) -> Vec<String> {
    let value: Value = match serde_json::from_str(answer) {
        Ok(value) => value,
        Err(error) => return vec![format!("no JSON: {error}: {answer}")],
    };
    let mut faults = Vec::new();
    if value["result"] == "fault" {
        check_schema(&schema("fault.json"), &value, "answer", &mut faults);
        return faults;
    }
    let line = format!("{program} {}", words.join(" "));
    let is_it = |command: &str| line == command || line.starts_with(&format!("{command} "));
    let known = commands().into_iter().filter(|(command, _)| is_it(command));
    let Some((_, file)) = known.max_by_key(|(command, _)| command.len()) else {
        return vec![format!("docs/json.md has no `{line}`")];
    };
    check_schema(&schema(&file), &value, "answer", &mut faults);
    faults
}

/// The same; a fault ends the test.
pub(crate) fn check(program: &str, words: &[&str], answer: &str) {
    let faults = faults(program, words, answer);
    assert!(faults.is_empty(), "{program} {words:?}: {}\n{answer}", faults.join("\n"));
}

/// Adds what is wrong with `value`, which is at `place`.
fn check_schema(schema: &Value, value: &Value, place: &str, faults: &mut Vec<String>) {
    let empty = Map::new();
    let schema = schema.as_object().expect("a schema is an object");
    for word in schema.keys() {
        assert!(WORDS.contains(&word.as_str()), "`{word}` is no word of our schemas");
    }
    if let Some(kind) = schema.get("type")
        && !is_of(kind, value)
    {
        return faults.push(format!("{place} is {value}, and must be {kind}"));
    }
    if schema.get("const").is_some_and(|only| only != value) {
        faults.push(format!("{place} is {value}, and must be {}", schema["const"]));
    }
    if let Some(all) = schema.get("enum").and_then(Value::as_array)
        && !all.contains(value)
    {
        faults.push(format!("{place} is {value}, and must be one of {}", schema["enum"]));
    }
    if let (Some(least), Some(number)) =
        (schema.get("minimum").and_then(Value::as_i64), value.as_i64())
        && number < least
    {
        faults.push(format!("{place} is {number}, and must be {least} at least"));
    }
    if let Some(all) = schema.get("anyOf").and_then(Value::as_array) {
        any_of(all, value, place, faults);
    }
    if let (Some(items), Some(list)) = (schema.get("items"), value.as_array()) {
        for (index, item) in list.iter().enumerate() {
            check_schema(items, item, &format!("{place}[{index}]"), faults);
        }
    }
    let Some(object) = value.as_object() else { return };
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        let name = name.as_str().expect("a name");
        if !object.contains_key(name) {
            faults.push(format!("{place} has no {name}"));
        }
    }
    let is_closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
    for (name, value) in object {
        match properties.get(name) {
            Some(schema) => check_schema(schema, value, &format!("{place}.{name}"), faults),
            None if is_closed => faults.push(format!("{place}.{name} is in no schema")),
            None => {}
        }
    }
}

fn any_of(all: &[Value], value: &Value, place: &str, faults: &mut Vec<String>) {
    let mut tries = Vec::new();
    for schema in all {
        let mut found = Vec::new();
        check_schema(schema, value, place, &mut found);
        if found.is_empty() {
            return;
        }
        tries.push(found.join(", "));
    }
    faults.push(format!("{place} has none of its shapes: {}", tries.join("; or: ")));
}

/// True if the value is of this kind, or of one of these.
fn is_of(kind: &Value, value: &Value) -> bool {
    if let Some(kinds) = kind.as_array() {
        return kinds.iter().any(|kind| is_of(kind, value));
    }
    match kind.as_str().expect("a kind") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("`{other}` is no kind of our schemas"),
    }
}
