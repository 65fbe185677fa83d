//! The files that `include` adds, and names that must be unique over all files.
//! See `app::load` for listing and opening them.

use std::collections::BTreeMap;

use toml::Spanned;

use super::raw::Named;
use crate::core::diagnostic::{SourceText, printable};
use crate::core::types::Fault;

/// The most files that a directory may add.
pub const PARTS: usize = 1024;

pub struct ConfigPart {
    pub label: String,
    pub text: String,
}

/// A section `[SORT.NAME]` and the file that it is in.
pub(super) struct NamedSection<'t, R> {
    pub(super) file: SourceText<'t>,
    pub(super) name: Spanned<String>,
    pub(super) raw: R,
}

/// All sections of one sort, file by file and in the order of each file. Names must be unique, and
/// there may be `most`.
pub(super) fn in_order<'t, R>(
    files: Vec<(SourceText<'t>, Named<R>)>, sort: &str, most: usize,
) -> Result<Vec<NamedSection<'t, R>>, Fault> {
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    let mut all = Vec::new();
    for (file, sections) in files {
        let mut sections: Vec<_> = sections.into_iter().collect();
        sections.sort_by_key(|(name, _)| name.span().start);
        for (name, raw) in sections {
            let start = name.span().start;
            if all.len() == most {
                let what = format!("more than {most} {sort}s");
                return Err(file.complain(start, what, "remove some"));
            }
            if let Some(other) = owners.insert(name.get_ref().clone(), file.label) {
                let what = format!("{sort} `{}` is already in {other}", printable(name.get_ref()));
                let remedy = "give one of the two another name, or remove it";
                return Err(file.complain(start, what, remedy));
            }
            all.push(NamedSection { file, name, raw });
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
    fn included_files_add_services_and_doors_and_may_name_those_of_other_files() {
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
    fn each_mistake_is_reported_with_its_own_file() {
        let wrong =
            |text: &str| with(&[("/d/web.toml", WEB), ("/d/x.toml", text)]).unwrap_err().what;
        assert_eq!(
            wrong("[door.b]\nsequence = []\n"),
            "/d/x.toml:1:7: door `b` is already in t.toml"
        );
        assert_eq!(
            wrong("\n[service.web]\n"),
            "/d/x.toml:2:10: service `web` is already in /d/web.toml"
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
