//! What an access list of Windows allows others than the user, read from its SDDL text.

/// System, administrators, and the rights of the owner, who is checked beside this list.
const TRUSTED: [&str; 4] = ["SY", "BA", "OW", "CO"];
/// TrustedInstaller, which owns programs and what came with Windows.
const INSTALLER: &str = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464";
/// Rights that change nothing, by their short names.
const HARMLESS: [&str; 5] = ["FR", "FX", "GR", "GX", "RC"];
/// The same as bits: reading and executing, attributes, the list itself, waiting.
const READING: u32 = 0xA012_00A9;

/// Why a file is not the user's alone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Exposure {
    /// This SID owns it.
    Owner(String),
    /// This SID may read it.
    Reader(String),
    /// This SID may write it, or nothing protects it.
    Writer(String),
}

/// Reads `O:...D:...`; `user` is written as in that text.
/// The first reader or writer counts; readers only if `is_secret`.
pub(super) fn exposure(sddl: &str, user: &str, is_secret: bool) -> Option<Exposure> {
    let is_trusted = |sid: &str| sid == user || sid == INSTALLER || TRUSTED.contains(&sid);
    let (owner, list) = match sddl.split_once("D:") {
        Some((owner, list)) => (owner.trim_start_matches("O:"), list),
        None => (sddl.trim_start_matches("O:"), ""),
    };
    if !is_trusted(owner) {
        return Some(Exposure::Owner(owner.to_owned()));
    }
    // Without any list everybody may do everything. One without entries lets nobody in.
    if list.is_empty() || list.starts_with("NO_ACCESS_CONTROL") {
        return Some(Exposure::Writer("WD".to_owned()));
    }
    let entries = list.split('(').skip(1);
    for entry in entries {
        let mut fields = entry.trim_end_matches(')').split(';');
        let kind = fields.next().unwrap_or_default();
        let rights = fields.nth(1).unwrap_or_default();
        let sid = fields.nth(2).unwrap_or_default();
        // Entries that deny take nothing away from what we rely on.
        let denies = ["D", "OD", "XD"].contains(&kind);
        if denies || is_trusted(sid) {
            continue;
        }
        if !only_reads(rights) {
            return Some(Exposure::Writer(sid.to_owned()));
        }
        if is_secret {
            return Some(Exposure::Reader(sid.to_owned()));
        }
    }
    None
}

/// True for rights that let nobody change a file: `FRFX`, `0x1200a9`.
fn only_reads(rights: &str) -> bool {
    if let Some(bits) = rights.strip_prefix("0x") {
        return u32::from_str_radix(bits, 16).is_ok_and(|bits| bits & !READING == 0);
    }
    let mut rest = rights;
    while let Some((name, more)) = rest.split_at_checked(2) {
        if !HARMLESS.contains(&name) {
            return false;
        }
        rest = more;
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: &str = "S-1-5-21-1-2-3-1001";

    fn found(list: &str, is_secret: bool) -> Option<Exposure> {
        exposure(&format!("O:{USER}{list}"), USER, is_secret)
    }

    #[test]
    fn a_file_of_the_user_alone_is_trusted_and_so_are_system_and_administrators() {
        let alone = format!("D:P(A;;FA;;;{USER})(A;;FA;;;SY)(A;ID;0x1f01ff;;;BA)");
        assert_eq!(found(&alone, true), None);
        assert_eq!(found("D:P", true), None, "an empty list lets nobody in");
        assert_eq!(found("D:(D;;FA;;;WD)", true), None, "an entry that denies");
    }

    #[test]
    fn others_may_read_what_is_no_secret_and_write_nothing() {
        for rights in ["FR", "FRFX", "0x1200a9", "GRGX"] {
            let list = format!("D:AI(A;ID;{rights};;;BU)");
            assert_eq!(found(&list, false), None, "{rights}");
            assert_eq!(found(&list, true), Some(Exposure::Reader("BU".into())), "{rights}");
        }
        for rights in ["FA", "FW", "GA", "WD", "WO", "0x1301bf", "0x2", "0x100000000", "0x"] {
            let list = format!("D:AI(A;ID;{rights};;;AU)");
            assert_eq!(found(&list, false), Some(Exposure::Writer("AU".into())), "{rights}");
        }
        let callback = "D:(XA;;FA;;;WD;(a==1))";
        assert_eq!(found(callback, false), Some(Exposure::Writer("WD".into())));
    }

    #[test]
    fn a_file_of_somebody_else_or_without_a_list_is_refused() {
        assert_eq!(
            exposure("O:S-1-5-21-1-2-3-1002D:P(A;;FA;;;SY)", USER, false),
            Some(Exposure::Owner("S-1-5-21-1-2-3-1002".into()))
        );
        for list in ["", "D:", "D:NO_ACCESS_CONTROL"] {
            assert_eq!(found(list, false), Some(Exposure::Writer("WD".into())), "{list:?}");
        }
        assert_eq!(exposure("", USER, false), Some(Exposure::Owner(String::new())));
    }
}
