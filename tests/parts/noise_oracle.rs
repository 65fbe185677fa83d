//! `snow`, an independent implementation, is the oracle for both Noise messages in both directions:
//! the same bytes and the same final handshake hash. It is used nowhere else.

use snow::{Builder, HandshakeState};
use toctoc::core::keyring::{Secret, TEST_GATEWAY_ID};
use toctoc::core::knock::{BODY, RECEIPT_BODY};
use toctoc::core::noise::{Initiator, KeyPair, Responder};
use toctoc::core::test_vectors;

const PATTERN: &str = "Noise_NKpsk0_25519_ChaChaPoly_BLAKE2s";
const PSK: [u8; 32] = [0x50; 32];
const GATEWAY: [u8; 32] = [0x60; 32];
const CLIENT_E: [u8; 32] = [0x70; 32];
const GATEWAY_E: [u8; 32] = [0x71; 32];

fn prologue() -> Vec<u8> {
    test_vectors::realm().prologue(TEST_GATEWAY_ID).to_vec()
}

fn snow_initiator() -> HandshakeState {
    let (prologue, public) = (prologue(), gateway().public());
    let builder = Builder::new(PATTERN.parse().unwrap()).prologue(&prologue).unwrap();
    let builder = builder.remote_public_key(&public).unwrap().psk(0, &PSK).unwrap();
    builder.fixed_ephemeral_key_for_testing_only(&CLIENT_E).build_initiator().unwrap()
}

fn snow_responder() -> HandshakeState {
    let prologue = prologue();
    let builder = Builder::new(PATTERN.parse().unwrap()).prologue(&prologue).unwrap();
    let builder = builder.local_private_key(&GATEWAY).unwrap().psk(0, &PSK).unwrap();
    builder.fixed_ephemeral_key_for_testing_only(&GATEWAY_E).build_responder().unwrap()
}

fn gateway() -> KeyPair {
    KeyPair::new(&Secret::new(GATEWAY))
}

fn initiator() -> Initiator {
    Initiator::new(&prologue(), &gateway().public(), &Secret::new(PSK), &Secret::new(CLIENT_E))
        .unwrap()
}

/// `e | ciphertext | tag`, the layout of a message in snow.
fn joined(e: [u8; 32], sealed: &[u8], tag: [u8; 16]) -> Vec<u8> {
    [e.as_slice(), sealed, &tag].concat()
}

fn parted(message: &[u8]) -> ([u8; 32], Vec<u8>, [u8; 16]) {
    let (e, rest) = message.split_first_chunk::<32>().unwrap();
    let (sealed, tag) = rest.split_last_chunk::<16>().unwrap();
    (*e, sealed.to_vec(), *tag)
}

fn write(snow: &mut HandshakeState, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 1024];
    let length = snow.write_message(payload, &mut message).unwrap();
    message.truncate(length);
    message
}

fn read(snow: &mut HandshakeState, message: &[u8]) -> Vec<u8> {
    let mut payload = vec![0; 1024];
    let length = snow.read_message(message, &mut payload).unwrap();
    payload.truncate(length);
    payload
}

#[test]
fn our_client_and_snows_gateway_agree() {
    let knock = [0xab; BODY];
    let ours = initiator();
    let (e, mut sealed) = (ours.ephemeral(), knock);
    let (tag, awaiting) = ours.seal(&mut sealed);

    let mut snow = snow_responder();
    assert_eq!(read(&mut snow, &joined(e, &sealed, tag)), knock);

    let receipt = [0xcd; RECEIPT_BODY];
    let (e, mut answer, tag) = parted(&write(&mut snow, &receipt));
    let hash = awaiting.open(&e, &mut answer, &tag).expect("snow's answer opens");
    assert_eq!(answer, receipt);
    assert_eq!(hash, snow.get_handshake_hash());
}

#[test]
fn snows_client_and_our_gateway_agree() {
    let knock = [0xab; BODY];
    let mut snow = snow_initiator();
    let (e, mut sealed, tag) = parted(&write(&mut snow, &knock));
    let ours = Responder::open(&prologue(), &gateway(), &Secret::new(PSK), &e, &mut sealed, &tag)
        .expect("opens");
    assert_eq!(sealed, knock);

    let receipt = [0xcd; RECEIPT_BODY];
    let mut answer = receipt;
    let (e, tag, hash) = ours.seal(&Secret::new(GATEWAY_E), &mut answer).unwrap();
    assert_eq!(read(&mut snow, &joined(e, &answer, tag)), receipt);
    assert_eq!(hash, snow.get_handshake_hash());
}

#[test]
fn with_the_same_ephemeral_keys_the_bytes_are_the_same() {
    let ours = initiator();
    let (e, mut sealed) = (ours.ephemeral(), [1; BODY]);
    let (tag, _) = ours.seal(&mut sealed);
    let message = write(&mut snow_initiator(), &[1; BODY]);
    assert_eq!(joined(e, &sealed, tag), message);

    let mut responder = snow_responder();
    read(&mut responder, &message);
    let mut payload = sealed;
    let ours = Responder::open(&prologue(), &gateway(), &Secret::new(PSK), &e, &mut payload, &tag)
        .unwrap();
    let mut answer = [2; RECEIPT_BODY];
    let (e, tag, _) = ours.seal(&Secret::new(GATEWAY_E), &mut answer).unwrap();
    assert_eq!(joined(e, &answer, tag), write(&mut responder, &[2; RECEIPT_BODY]));
}
