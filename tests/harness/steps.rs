//! Programs that are killed after a chosen step: `tests/steps.c` counts what they write, rename,
//! sync and send.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of the shared file.
const SIZE: usize = 4096;

/// Counts the steps of the programs that are started with it, one program at a time.
pub struct Steps {
    library: PathBuf,
    path: PathBuf,
    shared: File,
}

impl Steps {
    /// Its library and its shared file are in `directory`.
    pub fn new(directory: &Path) -> Steps {
        let library = directory.join("steps.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/steps.c");
        let built = Command::new("cc")
            .args(["-Wall", "-Werror", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .status()
            .expect("cc is installed");
        assert!(built.success(), "tests/steps.c does not compile");
        let path = directory.join("steps");
        fs::write(&path, [0; SIZE]).expect("our own file");
        let shared = OpenOptions::new().read(true).write(true).open(&path).expect("our own file");
        Steps { library, path, shared }
    }

    /// Has this program's steps counted.
    pub fn count<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("LD_PRELOAD", &self.library).env("TEST_STEPS", &self.path)
    }

    /// Counts from 0 again, and kills the program after step `last`; after none if that is 0.
    pub fn kill_after(&self, last: u32) {
        let begin = [last.to_ne_bytes(), [0; 4]].concat();
        self.shared.write_all_at(&begin, 0).expect("our own file");
    }

    /// The letters of the steps so far: see `tests/steps.c`.
    pub fn taken(&self) -> String {
        let mut content = [0; SIZE];
        self.shared.read_exact_at(&mut content, 0).expect("our own file");
        let [_, _, _, _, a, b, c, d, letters @ ..] = content;
        let count = u32::from_ne_bytes([a, b, c, d]) as usize;
        String::from_utf8_lossy(&letters[..count.min(letters.len())]).into_owned()
    }
}
