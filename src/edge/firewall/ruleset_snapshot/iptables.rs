//! Reads the rulesets of iptables from what iptables-save prints: nft lists the extensions of
//! iptables by name only, and legacy tables not at all.
//!
//! Conditions become statements in nft's form, so that one tracer reads both. A condition that is
//! not known here becomes one that possibly matches.

use std::path::Path;

use serde_json::{Value, json};

use super::{Chain, Rule};
use crate::edge::files::check_way;
use crate::edge::firewall::nft::NftProgram;
use crate::edge::firewall::rule_place::RuleOwner;

/// Where distributions put the programs.
const FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// A built-in chain's hook and priority.
struct Builtin {
    chain: &'static str,
    hook: &'static str,
}

const BUILTIN: [Builtin; 5] = [
    Builtin { chain: "PREROUTING", hook: "prerouting" },
    Builtin { chain: "INPUT", hook: "input" },
    Builtin { chain: "FORWARD", hook: "forward" },
    Builtin { chain: "OUTPUT", hook: "output" },
    Builtin { chain: "POSTROUTING", hook: "postrouting" },
];

/// The chains that one of these programs prints; `None` if none of them can be run.
pub(super) fn chains_by(programs: &[String], v6: bool) -> Option<Vec<Chain>> {
    for program in programs {
        for folder in FOLDERS {
            let path = Path::new(folder).join(program);
            if path.exists() && check_way(&path).is_ok() {
                let text = NftProgram::new(&path).ok()?.listing(&[]).ok()?;
                return Some(read(&text, v6));
            }
        }
    }
    None
}

/// Parses the output of iptables-save.
pub(super) fn read(text: &str, v6: bool) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    let mut table = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.trim();
        } else if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split_whitespace();
            if let (Some(name), Some(policy)) = (words.next(), words.next()) {
                chains.push(chain(table, name, policy, v6));
            }
        } else if line.starts_with("-A ") {
            let words = words(line);
            let Some(name) = words.get(1).cloned() else { continue };
            let names: Vec<String> = chains
                .iter()
                .filter(|one| one.table == table)
                .map(|one| one.name.clone())
                .collect();
            let is_target = |word: &str| names.iter().any(|name| name == word);
            let statements = statements(words.get(2..).unwrap_or_default(), v6, &is_target);
            let rule = Rule { handle: 0, statements, text: line.to_owned() };
            let of = |one: &&mut Chain| one.table == table && one.name == name;
            if let Some(chain) = chains.iter_mut().find(of) {
                chain.rules.push(rule);
            }
        }
    }
    name_owners(&mut chains);
    chains
}

fn chain(table: &str, name: &str, policy: &str, v6: bool) -> Chain {
    let builtin = BUILTIN.iter().find(|one| one.chain == name && policy != "-");
    let hook = builtin.map(|one| one.hook.to_owned());
    let priority = match (table, name) {
        ("raw", _) => -300,
        ("mangle", _) => -150,
        ("nat", "PREROUTING" | "OUTPUT") => -100,
        ("nat", _) => 100,
        ("security", _) => 50,
        _ => 0,
    };
    Chain {
        family: if v6 { "ip6" } else { "ip" }.to_owned(),
        table: table.to_owned(),
        name: name.to_owned(),
        hook,
        priority,
        drops: policy == "DROP",
        rules: Vec::new(),
        owner: RuleOwner::Iptables,
        is_legacy: false,
    }
}

/// Gives the chains of ufw and firewalld to these. What a built-in chain does with packets that
/// none of its rules decides about is theirs too.
fn name_owners(chains: &mut [Chain]) {
    for (owner, mark) in
        [(RuleOwner::Ufw, "ufw-before-input"), (RuleOwner::Firewalld, "INPUT_direct")]
    {
        for table in ["filter", "nat", "mangle", "raw"] {
            let is_marked =
                |one: &Chain| one.name == mark || one.name == mark.replace("ufw", "ufw6");
            if !chains.iter().any(|one| one.table == table && is_marked(one)) {
                continue;
            }
            for chain in chains.iter_mut().filter(|one| one.table == table) {
                chain.owner = owner;
            }
        }
    }
}

/// The words of a line; quotes hold a word together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut is_quoted = false;
    let mut is_escaped = false;
    for letter in line.chars() {
        match letter {
            _ if is_escaped => {
                word.push(letter);
                is_escaped = false;
            }
            '\\' => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ' ' if !is_quoted => {
                words.extend(Some(std::mem::take(&mut word)).filter(|w| !w.is_empty()))
            }
            _ => word.push(letter),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

/// A condition that possibly matches.
fn unknown(name: &str) -> Value {
    json!({ "xt": { "type": "match", "name": name } })
}

fn condition(is_negated: bool, left: Value, right: Value) -> Value {
    let op = if is_negated { "!=" } else { "==" };
    json!({ "match": { "op": op, "left": left, "right": right } })
}

/// The statements of a rule, without its chain. `is_target`: whether a chain has this name.
fn statements(words: &[String], v6: bool, is_target: &dyn Fn(&str) -> bool) -> Vec<Value> {
    let mut found = Vec::new();
    let mut proto = "th".to_owned();
    let mut module = String::new();
    let mut is_negated = false;
    let mut words = words.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        if word == "!" {
            is_negated = true;
            continue;
        }
        if word == "-j" || word == "-g" {
            found.extend(target(word, words.map(str::to_owned).collect(), is_target));
            return found;
        }
        let mut value = || words.next().unwrap_or_default();
        let negated = std::mem::take(&mut is_negated);
        match word {
            "-p" => {
                let named = value();
                if !["all", "0"].contains(&named) {
                    let left = json!({ "meta": { "key": "l4proto" } });
                    found.push(condition(negated, left, json!(named)));
                }
                if ["tcp", "udp"].contains(&named) && !negated {
                    proto = named.to_owned();
                }
            }
            "-i" => {
                let left = json!({ "meta": { "key": "iifname" } });
                found.push(condition(negated, left, json!(value())));
            }
            "-s" | "-d" => {
                let field = if word == "-s" { "saddr" } else { "daddr" };
                let protocol = if v6 { "ip6" } else { "ip" };
                let left = json!({ "payload": { "protocol": protocol, "field": field } });
                found.push(condition(negated, left, prefix(value())));
            }
            "-m" => {
                module = value().to_owned();
                let is_known = ["tcp", "udp", "comment", "conntrack", "state", "multiport"];
                if !is_known.contains(&module.as_str())
                    && !["connmark", "addrtype"].contains(&module.as_str())
                {
                    found.push(unknown(&module));
                }
            }
            "--comment" => drop(value()),
            "--dport" | "--dports" | "--sport" | "--sports" => {
                let field = if word.contains("dport") { "dport" } else { "sport" };
                let left = json!({ "payload": { "protocol": proto, "field": field } });
                found.push(condition(negated, left, ports(value())));
            }
            "--ctstate" | "--state" => {
                let states: Vec<String> = value().split(',').map(str::to_lowercase).collect();
                let left = json!({ "ct": { "key": "state" } });
                found.push(condition(negated, left, json!(states)));
            }
            "--mark" if module == "connmark" => {
                let mut parts = value().split('/').map(number);
                let mark = parts.next().flatten().unwrap_or(0);
                let mask = parts.next().flatten().unwrap_or(u64::from(u32::MAX));
                let left = json!({ "&": [{ "ct": { "key": "mark" } }, mask] });
                found.push(condition(negated, left, json!(mark)));
            }
            // What is looked at is sent to this machine.
            "--dst-type" if words.next_if_eq(&"LOCAL").is_some() && !negated => {}
            _ if word.starts_with('-') => found.push(unknown(&module)),
            // A value of an option that is not known.
            _ => {}
        }
    }
    found
}

/// The statement for what a rule does.
fn target(how: &str, words: Vec<String>, is_target: &dyn Fn(&str) -> bool) -> Option<Value> {
    let name = words.first()?.as_str();
    let option = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.get(at + 1).cloned()
    };
    Some(match name {
        "ACCEPT" => json!({ "accept": null }),
        "DROP" => json!({ "drop": null }),
        "REJECT" => json!({ "reject": null }),
        "RETURN" => json!({ "return": null }),
        "NFQUEUE" | "QUEUE" => json!({ "queue": null }),
        "DNAT" => translation("dnat", &option("--to-destination")?),
        "REDIRECT" => match option("--to-ports") {
            Some(port) => json!({ "redirect": { "port": ports(&port) } }),
            None => json!({ "redirect": null }),
        },
        "TPROXY" => json!({ "tproxy": { "port": number(&option("--on-port")?) } }),
        _ if is_target(name) && how == "-g" => json!({ "goto": { "target": name } }),
        _ if is_target(name) => json!({ "jump": { "target": name } }),
        // It changes or logs the packet, which goes on.
        _ => json!({ "counter": null }),
    })
}

/// `172.17.0.2:80`, `172.17.0.2`, `[fd00::2]:80`, `:80`.
fn translation(kind: &str, to: &str) -> Value {
    let (address, port) = match to.rsplit_once(':') {
        _ if to.ends_with(']') => (to, None),
        Some((address, port)) if !address.contains(':') || address.ends_with(']') => {
            (address, Some(ports(port)))
        }
        _ => (to, None),
    };
    let address = address.trim_matches(['[', ']']);
    let mut body = json!({});
    if !address.is_empty() {
        body["addr"] = json!(address);
    }
    if let Some(port) = port {
        body["port"] = port;
    }
    json!({ kind: body })
}

/// `22`, `60000:61000`, `22,80,6000:6010`.
fn ports(text: &str) -> Value {
    let one = |text: &str| match text.split_once([':', '-']) {
        Some((first, last)) => json!({ "range": [number(first), number(last)] }),
        None => json!(number(text)),
    };
    match text.contains(',') {
        true => json!({ "set": text.split(',').map(one).collect::<Vec<Value>>() }),
        false => one(text),
    }
}

/// `192.0.2.0/24`, `192.0.2.1/32`.
fn prefix(text: &str) -> Value {
    match text.split_once('/') {
        Some((address, length)) => {
            json!({ "prefix": { "addr": address, "len": number(length) } })
        }
        None => json!(text),
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "\
# Generated by iptables-save v1.8.9 (nf_tables)
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:mine - [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment \"the \\\"old\\\" ones\" -j ACCEPT
-A INPUT -p tcp -m multiport ! --dports 22,6000:6010 -j mine
-A INPUT -m connmark --mark 0x10000000/0x10000000 -j ACCEPT
-A mine -s 192.0.2.0/24 -m recent --rcheck --name x -j LOG --log-prefix \"a -j DROP\"
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A PREROUTING -p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22
COMMIT
";

    #[test]
    fn conditions_and_targets_are_read_in_the_form_of_nft() {
        let chains = read(SAVED, false);
        let names: Vec<&str> = chains.iter().map(|chain| chain.name.as_str()).collect();
        assert_eq!(names, ["INPUT", "FORWARD", "mine", "PREROUTING", "DOCKER"]);
        assert!(chains[0].drops && chains[0].is_hooked("input") && !chains[2].is_hooked("input"));
        let rules = |index: usize| -> Vec<String> {
            chains[index].rules.iter().map(|rule| json!(rule.statements).to_string()).collect()
        };
        let said = rules(0);
        assert!(said[0].contains("\"right\":[\"related\",\"established\"]"), "{}", said[0]);
        assert!(said[0].ends_with("{\"accept\":null}]") && !said[0].contains("xt"), "{}", said[0]);
        assert!(
            said[1].contains("\"op\":\"!=\"") && said[1].contains("[6000,6010]"),
            "{}",
            said[1]
        );
        assert!(said[1].contains("{\"jump\":{\"target\":\"mine\"}}"), "{}", said[1]);
        assert!(said[2].contains("[{\"ct\":{\"key\":\"mark\"}},268435456]"), "{}", said[2]);
        // What it logs is no target, and an extension that is not known possibly matches.
        let mine = rules(2);
        assert!(
            mine[0].contains("recent") && mine[0].ends_with("{\"counter\":null}]"),
            "{}",
            mine[0]
        );
        let docker = rules(4);
        assert!(
            docker[0].contains("{\"dnat\":{\"addr\":\"172.17.0.2\",\"port\":80}}"),
            "{}",
            docker[0]
        );
        let first = rules(3);
        assert_eq!(first[0], "[{\"jump\":{\"target\":\"DOCKER\"}}]", "packets to this machine");
        assert!(first[1].ends_with("{\"redirect\":{\"port\":22}}]"), "{}", first[1]);
    }

    #[test]
    fn a_target_address_is_read_with_and_without_a_port() {
        for (text, expected) in [
            ("172.17.0.2:80", json!({ "dnat": { "addr": "172.17.0.2", "port": 80 } })),
            ("172.17.0.2", json!({ "dnat": { "addr": "172.17.0.2" } })),
            ("[fd00::2]:80", json!({ "dnat": { "addr": "fd00::2", "port": 80 } })),
            ("fd00::2", json!({ "dnat": { "addr": "fd00::2" } })),
            (":80", json!({ "dnat": { "port": 80 } })),
        ] {
            assert_eq!(translation("dnat", text), expected, "{text}");
        }
    }

    #[test]
    fn chains_of_ufw_and_firewalld_are_theirs() {
        let owner = |mark: &str| {
            let text = format!("*filter\n:INPUT DROP [0:0]\n:{mark} - [0:0]\n");
            read(&text, false)[0].owner
        };
        assert_eq!(owner("ufw-before-input"), RuleOwner::Ufw);
        assert_eq!(owner("INPUT_direct"), RuleOwner::Firewalld);
        assert_eq!(owner("mine"), RuleOwner::Iptables);
    }
}
