//! What an admin's command needs of a configuration that is not sound: where the running gateway
//! and its clients are, and the name of its table.

use std::path::PathBuf;

use toml::{Table, Value};

use super::TABLE;
use crate::config::{LogTarget, Settings, defaults};

/// The defaults, with every place that `text` still names, whatever is wrong elsewhere in it.
pub fn places(text: &str) -> Settings {
    let whole: Option<Table> = text.parse().ok();
    let find = |section: &str, key: &str| match &whole {
        Some(table) => table.get(section)?.get(key)?.as_str().map(str::to_owned),
        None => in_line(text, section, key),
    };
    let mut settings = defaults::settings();
    let gateway = &mut settings.gateway;
    for (key, place) in [
        ("clients_file", &mut gateway.clients_file),
        ("control_socket", &mut gateway.control_socket),
        ("state_dir", &mut gateway.state_dir),
    ] {
        take_path(find("gateway", key), place);
    }
    take_path(find("firewall", "nft"), &mut settings.firewall.nft);
    if let Some(path) = find("log", "to").map(PathBuf::from).filter(|path| path.has_root()) {
        settings.log.to = LogTarget::File(path);
    }
    if let Some(table) = find("firewall", "table").filter(|table| (TABLE.fits)(table)) {
        settings.firewall.table = table;
    }
    settings
}

fn take_path(found: Option<String>, place: &mut PathBuf) {
    let found = found.map(PathBuf::from);
    if let Some(path) = found.filter(|path| path.has_root()) {
        *place = path;
    }
}

/// The value of a line `key = "value"` in a section of a text that is no TOML.
fn in_line(text: &str, section: &str, key: &str) -> Option<String> {
    let mut current = String::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            current = header.split(']').next().unwrap_or_default().trim().to_owned();
            continue;
        }
        let is_wanted = |found: &str| match current.as_str() {
            "" => found.split('.').map(str::trim).eq([section, key]),
            current => current == section && found == key,
        };
        // One line is TOML by itself, whatever its neighbours are.
        if let Some((found, _)) = line.split_once('=')
            && is_wanted(found.trim())
            && let Ok(mut one) = line.parse::<Table>()
            && let Some((_, mut value)) = std::mem::take(&mut one).into_iter().next()
        {
            if let Value::Table(inner) = &mut value {
                value = inner.remove(key)?;
            }
            return value.as_str().map(str::to_owned);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: &str = "[gateway]\nclients_file = \"/c\" # mine\ncontrol_socket = '/s'\n";
    const FIREWALL: &str = "[firewall]\ntable = \"mine\"\nnft = \"/n\"\n";

    fn found(text: &str) -> [String; 4] {
        let Settings { gateway, firewall, .. } = places(text);
        let path = |path: PathBuf| path.display().to_string();
        let (clients, socket) = (path(gateway.clients_file), path(gateway.control_socket));
        [clients, socket, firewall.table, path(firewall.nft)]
    }

    #[test]
    fn the_places_are_found_whatever_else_is_wrong() {
        let good = format!("{GATEWAY}{FIREWALL}");
        for text in [
            good.clone(),
            format!("{good}[knock]\nport = 0\nprot = 1\n"),
            format!("{good}[knock\nport = = 1\n"),
            format!("nonsense\n{good}"),
            format!("{GATEWAY}key_file = \"/unclosed\n{FIREWALL}mark = 1 2\n"),
            format!("{good}{good}"),
            "gateway = { clients_file = \"/c\", control_socket = \"/s\" }\n".to_owned() + FIREWALL,
            format!("gateway.clients_file = \"/c\"\ngateway.control_socket=\"/s\"\n{FIREWALL}x\n"),
            format!(
                " [ gateway ]\r\n\tclients_file=\"/c\"\r\ncontrol_socket = \"\\u002fs\"\r\n{FIREWALL}]"
            ),
        ] {
            assert_eq!(found(&text), ["/c", "/s", "mine", "/n"], "{text}");
        }
    }

    #[test]
    fn what_is_not_named_or_cannot_be_meant_is_the_default() {
        let settings = defaults::settings();
        for text in [
            "",
            "[gateway]\n# clients_file = \"/c\"\n[knock]\nclients_file = \"/c\"\n",
            "[gateway]\nclients_file = \"c\"\ncontrol_socket = 1\n[firewall]\ntable = \"a b\"\n",
            "[gateway]\nclients_file = \"c\nclients_file_2 = \"/c\"\n",
        ] {
            assert_eq!(places(text), settings, "{text}");
        }
    }
}
