//! The completion scripts in real shells: what a tab offers behind a command line.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client_user::{User, profile};

/// A user with the profiles `gate` and `home`, and a gateway with services, clients and a door.
struct Machine {
    user: User,
    gateway: tempfile::TempDir,
}

/// Completes a line in bash, as readline would call the script.
const BASH: &str = r#"
source "$COMPLETIONS/toctoc.bash"
COMP_WORDBREAKS=$' \t\n"\'@><=;|&(:'
COMP_LINE=$1
COMP_POINT=${#1}
# The shell itself has it only while it completes.
compopt() { no_files=1; }
_toctoc ${1%% *}
printf '%s\n' "${COMPREPLY[@]}"
[ -n "$no_files" ] || echo "<files>"
"#;

/// Completes a line in zsh. What the completion system would show is printed.
const ZSH: &str = r#"
compdef() {}
_files() { print "<files>" }
compset() {}
_describe() { for word in "${(@P)@[-1]}"; do print -r -- "${${word//\\:/%}%%:*}"; done | tr % : }
source "$COMPLETIONS/_toctoc"
words=("${(@s: :)1}")
CURRENT=${#words}
_toctoc
"#;

/// Completes a line in fish, all of it real.
const FISH: &str = r#"
source "$COMPLETIONS/toctoc.fish"
function __fish_complete_path; echo "<files>"; end
complete -C $argv[1]
"#;

impl Machine {
    fn new() -> Self {
        let user = User::new().with_profile(9);
        user.write(".config/toctoc/profiles/home.toml", &profile(9).print(), 0o600);
        let machine = Self { user, gateway: tempfile::tempdir().unwrap() };
        let toctocd = |words: &[&str]| {
            let output = Command::new(env!("CARGO_BIN_EXE_toctocd")).args(words).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        let directory = machine.gateway.path().to_str().unwrap();
        let services = ["--service", "ssh=22/tcp", "--service", "web=80/tcp"];
        let address = ["--address", "gate.example.org"];
        toctocd(&[&["init", "--dir", directory][..], &services, &address].concat());
        let config = machine.config();
        for name in ["anna", "albert", "bert"] {
            machine.user.run(&format!("keygen --no-passphrase --out {name}"));
            let key = format!("@{}", machine.user.home.path().join(name).display());
            let key = format!("{key}.pub");
            let words = ["client", "add", name, "--key", &key, "--services", "ssh", "-c"];
            toctocd(&[&words[..], &[config.to_str().unwrap()]].concat());
        }
        let door = "\n[door.garden]\nsequence = [\"7001/tcp\"]\nservice = \"ssh\"\n";
        let text = std::fs::read_to_string(&config).unwrap() + door;
        std::fs::write(&config, text).unwrap();
        machine
    }

    fn config(&self) -> PathBuf {
        self.gateway.path().join("toctocd.toml")
    }

    /// The words that `shell` offers behind `line`, sorted, without their help.
    fn words(&self, shell: &Shell, line: &str) -> Vec<String> {
        let programs = Path::new(env!("CARGO_BIN_EXE_toctoc")).parent().unwrap();
        let output = Command::new(shell.program)
            .args(shell.options)
            .arg(shell.script)
            .args(shell.name)
            .arg(line)
            .env_clear()
            .env("HOME", self.user.home.path())
            .env("PATH", format!("{}:/usr/bin:/bin", programs.display()))
            .env("COMPLETIONS", concat!(env!("CARGO_MANIFEST_DIR"), "/completions"))
            .current_dir(self.gateway.path())
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}; tools/setup installs it", shell.program));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.is_empty(), "{} {line}: {errors}", shell.program);
        let text = String::from_utf8(output.stdout).unwrap();
        let mut words: Vec<String> = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            words.push(line.split('\t').next().unwrap().to_owned());
        }
        words.sort();
        words
    }
}

/// How a shell is called with a script and its argument.
struct Shell {
    program: &'static str,
    options: &'static [&'static str],
    script: &'static str,
    /// The script's own name, where the shell wants one.
    name: &'static [&'static str],
    /// True if it replaces only what stands behind the last equals sign.
    breaks_words: bool,
}

const SHELLS: [Shell; 3] = [
    Shell {
        program: "bash",
        options: &["--norc", "--noprofile", "-c"],
        script: BASH,
        name: &["bash"],
        breaks_words: true,
    },
    Shell {
        program: "zsh",
        options: &["-f", "-c"],
        script: ZSH,
        name: &["zsh"],
        breaks_words: false,
    },
    Shell {
        program: "fish",
        options: &["--no-config", "-c"],
        script: FISH,
        name: &[],
        breaks_words: false,
    },
];

#[test]
fn bash_zsh_and_fish_complete_commands_options_profiles_services_clients_and_doors() {
    let machine = Machine::new();
    let config = machine.config().display().to_string();
    for shell in &SHELLS {
        let offers = |line: &str, wanted: &[&str]| {
            let line = line.replace("CONFIG", &config);
            assert_eq!(machine.words(shell, &line), wanted, "{}: {line}", shell.program);
        };
        offers("toctoc op", &["open"]);
        offers("toctoc open --att", &["--attempts"]);
        offers("toctoc open ", &["gate", "home"]);
        offers("toctoc open h", &["home"]);
        offers("toctoc close gate ", &["ssh", "web"]);
        let before = if shell.breaks_words { "" } else { "home:" };
        let both = [format!("{before}ssh"), format!("{before}web")];
        offers("toctoc connect home:", &both.each_ref().map(String::as_str));
        offers("toctoc remove h", &["home"]);
        offers("toctoc open nobody ", &[]);
        offers("toctocd client re", &["revoke"]);
        offers("toctocd -c CONFIG client revoke a", &["albert", "anna"]);
        offers("toctocd -c CONFIG client forgive ", &["albert", "anna", "bert"]);
        offers("toctocd -c CONFIG client show b", &["bert"]);
        offers("toctocd -c CONFIG client add x --services s", &["ssh"]);
        offers("toctocd -c CONFIG client add x --services ssh,", &["ssh,web"]);
        offers("toctocd -c CONFIG client add x --door ", &["garden"]);
        offers("toctocd -c CONFIG close --client a", &["albert", "anna"]);
        let before = if shell.breaks_words { "" } else { "door:" };
        let door = format!("{before}garden");
        offers("toctocd -c CONFIG close --client door:", &[&door]);
        offers("toctocd -c CONFIG close --service w", &["web"]);
        let before = if shell.breaks_words { "" } else { "--services=" };
        let rest = format!("{before}web");
        offers("toctocd -c CONFIG client add x --services=w", &[&rest]);
        offers("toctoc import ", &["<files>"]);
        offers("toctoc open -i ", &["<files>"]);
    }
}

#[test]
fn clients_are_completed_while_the_configuration_is_broken() {
    let machine = Machine::new();
    let config = machine.config();
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}nonsense = 1\n")).unwrap();
    let line = format!("toctocd -c {} client revoke b", config.display());
    assert_eq!(machine.words(&SHELLS[0], &line), ["bert"]);
}
