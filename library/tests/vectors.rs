//! The C interface from C, with AddressSanitizer, and from Python, both against tests/vectors.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use toctoc::core::keyring::{ClientRoot, Secret};
use toctoc::core::test_vectors;
use toctoc::core::types::ClientId;
use toctoc_client::{Invitation, Profile, PublicKey, ServiceName};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("in the repository").to_owned()
}

/// A file that cargo has built of the library. It stands beside the tests, or one folder up.
fn built(name: &str) -> PathBuf {
    let folder = std::env::current_exe().expect("a path").parent().expect("a folder").to_owned();
    let beside = folder.join(name);
    if beside.exists() { beside } else { folder.with_file_name(name) }
}

fn vector(name: &str) -> Value {
    let text = std::fs::read_to_string(root().join("tests/vectors").join(name)).expect(name);
    serde_json::from_str(&text).expect("JSON")
}

fn unhex(value: &Value) -> Vec<u8> {
    base16ct::lower::decode_vec(value.as_str().expect("text")).expect("hex")
}

/// The profile of the test client.
fn profile() -> Profile {
    let client = test_vectors::client();
    Profile {
        name: client.name.to_string(),
        client: client.id,
        key: client.key,
        addresses: vec!["198.51.100.1".to_owned()],
        port: 62201,
        side: test_vectors::side(client.id),
        services: vec![ServiceName::new("ssh").expect("a name")],
        default_service: None,
        expires: None,
        identity: None,
        agent: None,
        fallback: None,
    }
}

/// The profile that the invitation of join.json becomes.
fn joined(join: &Value, key: PublicKey) -> String {
    let line = join["line"].as_str().expect("text");
    let id = ClientId(unhex(&join["new_id"]).try_into().expect("16 bytes"));
    let secret: [u8; 32] = unhex(&join["new_root"]).try_into().expect("32 bytes");
    let root = ClientRoot::new(Secret::new(secret));
    let profile = Invitation::parse(line).expect("the line").profile(key, id, &root);
    let expires = join["expires"].as_u64();
    Profile { expires, ..profile }.print().to_string()
}

struct Header(String);

impl Header {
    fn bytes(&mut self, name: &str, bytes: &[u8]) {
        write!(self.0, "static const uint8_t {name}[] = {{").expect("memory");
        for byte in bytes {
            write!(self.0, "{byte},").expect("memory");
        }
        self.0 += "};\n";
    }

    fn number(&mut self, name: &str, number: u64) {
        writeln!(self.0, "static const uint64_t {name} = {number}ull;").expect("memory");
    }

    fn text(&mut self, name: &str, text: &str) {
        writeln!(self.0, "static const char {name}[] = \"{text}\";").expect("memory");
    }

    /// What the C test takes of one vector.
    fn vector(&mut self, name: &str, vector: &Value) {
        self.bytes(&format!("{name}_datagram"), &unhex(&vector["datagram"]));
        self.bytes(&format!("{name}_receipt"), &unhex(&vector["receipt_datagram"]));
        self.bytes(&format!("{name}_blob"), &unhex(&vector["sshsig_blob"]));
        self.bytes(&format!("{name}_signature"), &unhex(&vector["signature"]));
    }
}

/// The random bytes that give a vector its ephemeral key and its timestamp.
fn entropy(vector: &Value) -> Vec<u8> {
    let request = unhex(&vector["request"]);
    [&unhex(&vector["client_ephemeral_secret"]), &request[12..16], &[0; 4]].concat()
}

fn time(vector: &Value) -> u64 {
    u64::from_be_bytes(unhex(&vector["request"])[8..16].try_into().expect("8 bytes"))
}

/// vectors.h
fn header() -> String {
    let mut header = Header("// Made by library/tests/vectors.rs.\n".to_owned());
    let (knock, join) = (vector("knock.json"), vector("join.json"));
    let (first, time_asked) = (vector("challenge.json"), vector("time.json"));
    let join_first = vector("challenge_join.json");
    header.vector("knock", &knock);
    header.vector("first", &first);
    header.vector("time", &time_asked);
    header.vector("join", &join);
    header.vector("join_first", &join_first);
    header.bytes("entropy", &entropy(&knock));
    header.bytes("first_entropy", &entropy(&first));
    header.bytes("time_entropy", &entropy(&time_asked));
    header.number("knock_now", time(&knock));
    header.number("time_now", time(&time_asked));
    header.number("join_now", time(&join));
    let receipt = unhex(&knock["receipt"]);
    let granted = u64::from_be_bytes(receipt[8..16].try_into().expect("8 bytes"));
    header.number("granted_time", granted);
    header.bytes("source", &test_vectors::address().to_bytes());
    header.bytes("gateway", &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 198, 51, 100, 1]);
    let profile = profile();
    header.bytes("profile_text", profile.print().as_bytes());
    header.bytes("joined_text", joined(&join, profile.key.clone()).as_bytes());
    header.bytes("line", join["line"].as_str().expect("text").as_bytes());
    header.bytes("key", profile.key.line().as_bytes());
    let fingerprint = toctoc::keys::public::show_fingerprint(&profile.key.fingerprint());
    header.text("fingerprint", &fingerprint);
    header.text("version", env!("CARGO_PKG_VERSION"));
    header.0
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
}

#[test]
fn a_program_in_c_agrees_with_the_vectors_and_misuse_is_an_error_code() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("vectors.h"), header()).expect("written");
    let program = folder.path().join("vectors");
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g"]);
    cc.args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]);
    cc.arg("-I").arg(root().join("library/include")).arg("-I").arg(folder.path());
    cc.arg(root().join("library/tests/vectors.c")).arg(built("libtoctoc_client.a"));
    run(cc.args(["-lpthread", "-ldl", "-lm", "-o"]).arg(&program));
    run(&mut Command::new(&program));
}

#[test]
fn a_program_in_python_agrees_with_the_vectors() {
    let folder = tempfile::tempdir().expect("a folder");
    let paths = ["plain.toml", "fido.toml"].map(|name| folder.path().join(name));
    let plain = profile();
    let blob = unhex(&vector("fido.json")["key_blob"]);
    let fido = Profile { key: PublicKey::from_blob(&blob).expect("a FIDO key"), ..profile() };
    for (path, profile) in paths.iter().zip([plain, fido]) {
        std::fs::write(path, profile.print().as_bytes()).expect("written");
    }
    let mut python = Command::new("python3");
    python.arg(root().join("library/tests/vectors.py")).arg(built("libtoctoc_client.so"));
    run(python.args(paths));
}
