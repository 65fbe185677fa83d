//! include/toctoc.h is what cbindgen makes of src/c.rs.

use std::path::Path;

#[test]
fn the_header_is_that_of_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("readable");
    let builder = cbindgen::Builder::new().with_config(config).with_src(root.join("src/c.rs"));
    let mut made = Vec::new();
    builder.generate().expect("a header").write(&mut made);
    let path = root.join("include/toctoc.h");
    if std::env::var_os("TOCTOC_HEADER").is_some() {
        std::fs::write(&path, &made).expect("written");
    }
    let committed = std::fs::read(&path).expect("the header is committed");
    assert!(
        committed == made,
        "include/toctoc.h is not that of src/c.rs: TOCTOC_HEADER=write cargo test -p toctoc-client"
    );
}
