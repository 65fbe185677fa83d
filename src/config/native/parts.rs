//! The files that `include` leads to: sections `[service.NAME]` and `[door.NAME]`, and names that
//! are one's own over all files. Listing and opening them is left to `app::load`, what the sections
//! say to `native` and `doors`.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::doors::RawDoor;
use super::{Named, RawService};
use crate::core::diagnostic::{SourceText, printable};
use crate::core::types::Fault;

/// How many files a directory may add.
pub const PARTS: usize = 1024;

/// One such file.
pub struct ConfigPart {
    /// Its path, for complaints.
    pub label: String,
    /// What stands in it.
    pub text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "sections [service.NAME] and [door.NAME]")]
pub(super) struct RawPart {
    #[serde(default)]
    pub(super) service: Named<RawService>,
    #[serde(default)]
    pub(super) door: Named<RawDoor>,
}

impl ConfigPart {
    pub(super) fn text(&self) -> SourceText<'_> {
        SourceText::new(&self.label, &self.text)
    }

    pub(super) fn read(&self) -> Result<RawPart, Fault> {
        let file = self.text();
        toml::from_str(&self.text).map_err(|e| file.complain_serde(e.span(), e.message()))
    }
}

/// All sections of one sort, file by file and in the order of each file. No two may have one name,
/// and there may be `most`.
pub(super) fn in_order<'t, R>(
    files: Vec<(SourceText<'t>, Named<R>)>,
    sort: &str,
    most: usize,
) -> Result<Vec<(SourceText<'t>, Spanned<String>, R)>, Fault> {
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    let mut all = Vec::new();
    for (file, sections) in files {
        let mut sections: Vec<_> = sections.into_iter().collect();
        sections.sort_by_key(|(name, _)| name.span().start);
        for (name, section) in sections {
            let start = name.span().start;
            if all.len() == most {
                return Err(file.complain(
                    start,
                    format!("more than {most} {sort}s"),
                    "remove some",
                ));
            }
            if let Some(other) = owners.insert(name.get_ref().clone(), file.label) {
                let what =
                    format!("{sort} `{}` stands in {other} already", printable(name.get_ref()));
                return Err(file.complain(
                    start,
                    what,
                    "give one of the two another name, or remove it",
                ));
            }
            all.push((file, name, section));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::{parse, read};
    use super::*;
    use crate::config::Settings;

    const MAIN: &str = "include = \"/d\"\n[service.ssh]\nports = [\"22/tcp\"]\n[door.b]\nsequence = [\"1/tcp\"]\nservice = \"web\"\n";
    const WEB: &str = "[service.web]\nports = [\"80/tcp\"]\n";

    fn with(parts: &[(&str, &str)]) -> Result<Settings, Fault> {
        read("t.toml", MAIN, &mut |directory| {
            assert_eq!(directory, std::path::Path::new("/d"));
            let part = |(label, text): &(&str, &str)| ConfigPart {
                label: (*label).to_owned(),
                text: (*text).to_owned(),
            };
            Ok(parts.iter().map(part).collect())
        })
    }

    #[test]
    fn the_files_of_a_directory_add_services_and_doors_and_may_name_those_of_each_other() {
        let door = "[door.a]\none_time_sequences = \"/f\"\nservice = \"ssh\"\n";
        let read = with(&[("/d/1.toml", door), ("/d/2.toml", WEB)]).unwrap();
        let names: Vec<_> = read.services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(names, ["ssh", "web"]);
        let names: Vec<_> = read.doors.iter().map(|door| door.name.as_str()).collect();
        assert_eq!(names, ["b", "a"]);
        assert!(
            parse("t.toml", MAIN).unwrap_err().what.contains("unknown service `web`"),
            "without the directory"
        );
    }

    #[test]
    fn each_mistake_is_named_by_its_own_file() {
        let wrong =
            |text: &str| with(&[("/d/web.toml", WEB), ("/d/x.toml", text)]).unwrap_err().what;
        assert_eq!(
            wrong("[door.b]\nsequence = []\n"),
            "/d/x.toml:1:7: door `b` stands in t.toml already"
        );
        assert_eq!(
            wrong("\n[service.web]\n"),
            "/d/x.toml:2:10: service `web` stands in /d/web.toml already"
        );
        assert_eq!(wrong("[knock]\nport = 1\n"), "/d/x.toml:1:2: unknown key `knock`");
        assert_eq!(wrong("include = \"/e\"\n"), "/d/x.toml:1:1: unknown key `include`");
        assert_eq!(
            wrong("[door.x]\nsequence = [\"x\"]\nservice = \"web\"\n"),
            "/d/x.toml:2:13: not a step of a sequence"
        );
        let taken = "[service.x]\nports = [\"80/tcp\"]\n";
        assert_eq!(wrong(taken), "/d/x.toml:2:10: 80/tcp is already taken by service `web`");
        assert_eq!(
            parse("t.toml", "include = \"d\"\n").unwrap_err().what,
            "t.toml:1:11: `include` is not an absolute path"
        );
    }
}
