//! Our signatures are those of OpenSSH: we accept what `ssh-keygen -Y sign` makes, and `ssh-keygen
//! -Y verify` accepts what we make. Needs ssh-keygen (openssh-client), which tools/setup installs.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use ssh_key::{HashAlg, LineEnding, SshSig};
use toctoc::core::authentic::{self, Authentic, Message, NAMESPACE};
use toctoc::core::keyring::{Day, Secret, TEST_GATEWAY_ID};
use toctoc::core::knock::{Request, Signature};
use toctoc::core::public_key::PublicKey;
use toctoc::core::service::Client;
use toctoc::core::test_vectors::{self, CLIENT, NOON};
use toctoc::core::types::{Fault, Fingerprint, Reject};
use toctoc::core::wire::seal;

fn ssh_keygen(arguments: &[&str], stdin: Stdio) -> (bool, String) {
    let run = Command::new("ssh-keygen")
        .args(arguments)
        .stdin(stdin)
        .output()
        .expect("ssh-keygen is installed");
    (run.status.success(), String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned())
}

/// A client with a new key that ssh-keygen made.
fn enrolled(folder: &Path) -> Client {
    let file = folder.join("id");
    let (ok, output) =
        ssh_keygen(&["-q", "-t", "ed25519", "-N", "", "-f", file.to_str().unwrap()], Stdio::null());
    assert!(ok, "{output}");
    let key = ssh_key::PublicKey::read_openssh_file(folder.join("id.pub").as_path()).unwrap();
    let bytes = key.key_data().ed25519().unwrap().0;
    let fingerprint = Fingerprint(key.fingerprint(HashAlg::Sha256).as_bytes().try_into().unwrap());
    assert_eq!(
        PublicKey::plain(bytes).fingerprint(),
        fingerprint,
        "our fingerprint differs from OpenSSH's"
    );
    assert!(authentic::check_enrolment_key(&bytes).is_ok());
    Client { key: PublicKey::plain(bytes), ..test_vectors::client() }
}

/// Lets ssh-keygen sign `message` in `namespace`.
fn sign_by_openssh(folder: &Path, namespace: &str, message: &Message) -> Signature {
    let file = folder.join("message");
    fs::write(&file, message).unwrap();
    let _ = fs::remove_file(folder.join("message.sig"));
    let key = folder.join("id");
    let arguments =
        ["-Y", "sign", "-n", namespace, "-f", key.to_str().unwrap(), file.to_str().unwrap()];
    let (ok, output) = ssh_keygen(&arguments, Stdio::null());
    assert!(ok, "{output}");
    let signed = SshSig::from_pem(fs::read(folder.join("message.sig")).unwrap()).unwrap();
    assert_eq!(signed.hash_alg(), HashAlg::Sha512);
    let ed25519 = signed.signature_bytes().try_into().unwrap();
    Signature { ed25519, sk_flags: 0, sk_counter: 0 }
}

/// Seals, opens and verifies a knock that ssh-keygen signed.
fn knock_signed_in(namespace: &str) -> Result<Request, Reject> {
    let folder = tempfile::tempdir().unwrap();
    let client = enrolled(folder.path());
    let signed = test_vectors::request(NOON).encode();
    let side = test_vectors::side(CLIENT);
    let day = Day::Number(NOON.day());
    let sign = |message: &Message| -> Result<Signature, Fault> {
        Ok(sign_by_openssh(folder.path(), namespace, message))
    };
    let (datagram, _) = seal(&side, &signed, day, Secret::new([5; 32]), sign).unwrap();
    let (parts, _) = test_vectors::open(&datagram, NOON)?.split();
    let claim = test_vectors::handed(parts, test_vectors::address());
    let gate = side.secrets.gate(day).unwrap();
    Authentic::verify(claim, &client, TEST_GATEWAY_ID, &gate).map(|proven| *proven.request())
}

#[test]
fn a_knock_signed_by_ssh_keygen_is_authentic() {
    let proven = knock_signed_in(NAMESPACE).map_err(Reject::name).unwrap();
    assert_eq!(proven.timestamp, NOON);
}

#[test]
fn an_openssh_signature_for_another_purpose_is_refused() {
    for namespace in ["file", "git", "knock@toctoc.v2"] {
        assert_eq!(knock_signed_in(namespace), Err(Reject::Signature), "{namespace}");
    }
}

#[test]
fn ssh_keygen_accepts_our_signature() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let message =
        authentic::message(TEST_GATEWAY_ID, &[3; 32], &test_vectors::request(NOON).encode());
    let ours = authentic::sign(&test_vectors::seed(), &message);
    let key = test_vectors::client().key.ed25519;
    let key = ssh_key::PublicKey::from(ssh_key::public::Ed25519PublicKey(key));
    let signature =
        ssh_key::Signature::new(ssh_key::Algorithm::Ed25519, ours.ed25519.as_slice()).unwrap();
    let file = SshSig::new(key.key_data().clone(), NAMESPACE, HashAlg::Sha512, signature).unwrap();
    fs::write(path("message.sig"), file.to_pem(LineEnding::LF).unwrap()).unwrap();
    fs::write(path("allowed"), format!("admin {}\n", key.to_openssh().unwrap())).unwrap();
    let verify = |message: &Message| {
        fs::write(path("message"), message).unwrap();
        let (allowed, signature) = (path("allowed"), path("message.sig"));
        let arguments =
            ["-Y", "verify", "-f", &allowed, "-I", "admin", "-n", NAMESPACE, "-s", &signature];
        ssh_keygen(&arguments, fs::File::open(path("message")).unwrap().into())
    };
    let (ok, output) = verify(&message);
    assert!(ok, "{output}");
    let mut other = message;
    other[20] ^= 1;
    assert!(!verify(&other).0, "ssh-keygen accepts the signature for another message");
}
