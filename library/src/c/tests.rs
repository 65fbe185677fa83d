//! What tests in C cannot reach. See tests/vectors.c for the rest.

use super::*;

#[test]
fn a_panic_ends_at_the_interface_and_its_object_can_only_be_freed() {
    let line =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/join.json"));
    let vector: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
    let invitation = Invitation::parse(vector["line"].as_str().unwrap()).unwrap();
    let number = keep(Object::Invitation(Arc::new(invitation))).ok().unwrap();
    let code = call(std::ptr::null_mut(), || Ok(with(number, |_| panic!("a planted panic"))?));
    assert_eq!(code, ToctocCode::Internal);
    assert_eq!(with(number, |_| ()), Err(HandleError::Unknown));
    assert_eq!(free(number), Ok(()));
    assert_eq!(free(number), Err(HandleError::Unknown));
}

#[test]
fn a_text_is_cut_between_characters() {
    let mut place = [1; 5];
    copy_text("aäöü", &mut place);
    assert_eq!(place.map(|c| c.to_ne_bytes()[0]), [b'a', 0xc3, 0xa4, 1, 1]);
    let mut place = [0; 4];
    copy_text("abcdef", &mut place);
    assert_eq!(place.map(|c| c.to_ne_bytes()[0]), *b"abc\0");
}
