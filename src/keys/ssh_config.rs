//! The one line of the user's ssh configuration that matters here: which agent has the keys.
//! See `app::client::signer` for the others.

/// What `IdentityAgent` says for every host: of the lines before the first section, and in `Host *`
/// and `Match all`. As in ssh, the first one counts. The lines of other sections may be about
/// machines that are no gateway.
pub fn identity_agent(text: &str) -> Option<&str> {
    let mut is_for_all = true;
    for line in text.lines() {
        let (word, value) = split(line.trim());
        match word.to_ascii_lowercase().as_str() {
            "host" => is_for_all = value == "*",
            "match" => is_for_all = value.eq_ignore_ascii_case("all"),
            "identityagent" if is_for_all => return Some(value),
            _ => {}
        }
    }
    None
}

/// A line's first word and the rest: after blanks or one `=`, without quotation marks.
fn split(line: &str) -> (&str, &str) {
    let end = line.find(|one: char| one.is_whitespace() || one == '=').unwrap_or(line.len());
    let (word, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let value = rest.strip_prefix('=').unwrap_or(rest).trim();
    let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    (word, bare.unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_agent_that_is_for_every_host_counts() {
        for (text, agent) in [
            ("", None),
            ("IdentityAgent ~/a.sock\nIdentityAgent /b\n", Some("~/a.sock")),
            ("# IdentityAgent /a\nidentityagent = \"/a b/agent.sock\" \n", Some("/a b/agent.sock")),
            ("Host web\n  IdentityAgent /a\nHost *\n\tIdentityAgent=/b\n", Some("/b")),
            ("Match host web exec x\n IdentityAgent /a\nMatch all\n IdentityAgent /b", Some("/b")),
            ("Host * !web\n IdentityAgent /a\n", None),
            ("Host web *\n IdentityAgent /a\n", None),
            ("IdentityAgent", Some("")),
            ("IdentityAgents /a\n=\n", None),
        ] {
            assert_eq!(identity_agent(text), agent, "{text:?}");
        }
    }
}
