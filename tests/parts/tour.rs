//! docs/tour.md, the picture made with it, and README: what a newcomer reads first.

use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory};
use toctoc::app::args::{toctoc as client, toctocd as gateway};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a text file")
}

/// The commands below `command` that do something, each with the words that lead to it.
fn leaves(command: &Command, words: &[String], found: &mut Vec<Vec<String>>) {
    let words = [words, &[command.get_name().to_owned()]].concat();
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        leaves(sub, &words, found);
    }
    if !command.has_subcommands() {
        found.push(words);
    }
}

/// The words that were typed behind each prompt of the tour.
fn typed(tour: &str) -> Vec<Vec<&str>> {
    let mut lines = Vec::new();
    for line in tour.lines() {
        if let Some((place, words)) = line.split_once(":~")
            && place.contains('@')
            && !place.contains(' ')
        {
            lines.push(words.split_whitespace().skip(1).collect());
        }
    }
    lines
}

#[test]
fn the_tour_shows_every_command() {
    let tour = read("docs/tour.md");
    let typed = typed(&tour);
    let mut commands = Vec::new();
    leaves(&client::ToctocCommand::command(), &[], &mut commands);
    leaves(&gateway::ToctocdArgs::command(), &[], &mut commands);
    assert!(commands.len() > 30, "found only {commands:?}");
    let is_shown = |command: &Vec<String>| {
        typed.iter().any(|line| line.windows(command.len()).any(|words| words == command))
    };
    let missing: Vec<_> = commands.iter().filter(|command| !is_shown(command)).collect();
    assert!(missing.is_empty(), "add them to tools/tour, then `make tour`: {missing:?}");
}

#[test]
fn the_picture_shows_lines_of_the_tour() {
    let tour = read("docs/tour.md");
    let picture = read("docs/tour.svg");
    let mut lines = 0;
    for text in picture.split("<text ").skip(1).filter_map(|text| text.split_once("</text>")) {
        let mut line = String::new();
        // Behind each tag, up to the next one.
        for part in text.0.split('>').skip(1) {
            line += part.split('<').next().unwrap_or_default();
        }
        let line = line.replace("&#x27;", "'").replace("&lt;", "<").replace("&gt;", ">");
        let line = line.replace("&quot;", "\"").replace("&amp;", "&");
        assert!(line == "..." || tour.contains(&line), "not in docs/tour.md: {line}");
        lines += 1;
    }
    assert!(lines > 15, "found {lines} lines");
}

#[test]
fn readme_has_at_most_a_thousand_words_and_begins_with_the_way_to_ssh() {
    let readme = read("README.md");
    let words = readme.split_whitespace().count();
    assert!(words <= 1000, "{words} words");
    let lines: Vec<&str> = readme.lines().collect();
    let screen = lines.get(..30).expect("more than a screen").join("\n");
    for command in ["toctocd init", "toctoc join", "ssh bastion"] {
        assert!(screen.contains(command), "not on the first screen: {command}");
    }
}
